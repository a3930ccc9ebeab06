import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { isRunning, type ProcessMark } from '../../host/process.ts';

/** Names a file without opening it; Node has no name for the flag. */
const O_PATH = 0o10000000;
const LOOK_MS = 2;

/** A path to connect to, held until it is disposed of. */
export type HeldPath = AsyncDisposable & { readonly path: string };

/**
 * The file system that a sandbox's first process has, seen from the host. What is opened in it is never a link, which the sandbox may put in a file's
 * place.
 */
export class SandboxView implements AsyncDisposable {
  readonly #root: string;
  readonly #held: FileHandle | null;

  private constructor(root: string, held: FileHandle | null) {
    this.#root = root;
    this.#held = held;
  }

  /** Of a child of the daemon, whose number is nobody else's until it is asked how it ended. */
  static ofChild(pid: number): SandboxView {
    return new SandboxView(`/proc/${pid}/root`, null);
  }

  /** Of a process that an earlier life of the daemon started. @throws Error when it is gone */
  static async ofFound(mark: ProcessMark): Promise<SandboxView> {
    // What is open stays what it is, whosever the number becomes.
    const held = await open(`/proc/${mark.pid}/root`, O_PATH | constants.O_DIRECTORY);
    if (isRunning(mark)) return new SandboxView(`/proc/self/fd/${held.fd}`, held);
    await held.close();
    throw new Error('the sandbox’s process is gone');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#held?.close();
  }

  /** A socket, held so that it can be connected to under a short name. */
  async socket(path: string): Promise<HeldPath> {
    const handle = await open(`${this.#root}${path}`, O_PATH | constants.O_NOFOLLOW);
    if ((await handle.stat()).isSocket()) {
      return { path: `/proc/self/fd/${handle.fd}`, [Symbol.asyncDispose]: () => handle.close() };
    }
    await handle.close();
    throw new Error(`${path} of the sandbox is no socket`);
  }

  /** The same, waiting until it is there. `signal` ends the wait. */
  async socketWhenThere(path: string, signal: AbortSignal): Promise<HeldPath> {
    for (;;) {
      signal.throwIfAborted();
      try {
        return await this.socket(path);
      } catch (error) {
        if (!isAbsent(error)) throw error;
      }
      await sleep(LOOK_MS, undefined, { signal });
    }
  }

  /** What is written to a named pipe. It is opened in both directions, so that it does not end with its writer. */
  fifo(path: string): Socket {
    // A number, not a handle: a handle that is collected closes what it opened, and this descriptor becomes the socket's.
    const fd = openSync(`${this.#root}${path}`, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (fstatSync(fd).isFIFO()) return new Socket({ fd, readable: true, writable: false });
    closeSync(fd);
    throw new Error(`${path} of the sandbox is no named pipe`);
  }
}

/** Not there yet, or not any more. */
function isAbsent(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : '';
  return code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES';
}
