import { CocoreError } from '@cocore/protocol';
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { deadline } from '../host/clock.ts';
import type { NetworkPlug } from '../sandbox/driver.ts';
import { encodeOrder, type GateNews, GateNewsDecoder, type GateOrder } from './gate-frames.ts';

/** Built by the set-up (`make -C packages/worker/gate`). */
export const GATE = fileURLToPath(new URL('../../gate/build/gate', import.meta.url));

/** As in `gate/main.c`. */
const CONTROL_FD = 3;
const NAMESPACE_FD = 100;
/** It takes tens of milliseconds; a host that is very busy takes longer. */
const OPEN_MS = 15_000;

export interface GateOptions {
  readonly plug: NetworkPlug;
  readonly uid: number;
  /** What it has as its file system. */
  readonly root: string;
  readonly maxBytes: number;
  readonly onNews: (news: GateNews) => void;
  /** It has ended by itself, and with it the network. */
  readonly onLost: () => void;
  readonly program?: string;
}

/** One gate's process. Disposing of it ends it; its network namespace ends with the sandbox that is in it. */
export class Gate implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #control: Duplex;
  readonly #exited: Promise<void>;
  #isOurs = false;

  private constructor(child: ChildProcess, onLost: () => void) {
    this.#child = child;
    this.#control = child.stdio[CONTROL_FD] as Duplex;
    // A gate that is gone takes no orders; its end is seen at the process.
    this.#control.on('error', () => undefined);
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', () => resolve());
    });
    void this.#exited.then(() => {
      this.#control.destroy();
      if (!this.#isOurs) onLost();
    });
  }

  /** Resolves when the sandbox can be connected. When it rejects, nothing is left. @throws CocoreError `host_unfit` */
  static async open(options: GateOptions): Promise<Gate> {
    const { plug, uid, root, maxBytes, program = GATE } = options;
    const child = spawn(program, [], {
      cwd: '/',
      stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
      env: {
        GATE_DAEMON: String(process.pid),
        GATE_CGROUPS: plug.procsFiles.join('\n'),
        GATE_UID: String(uid),
        GATE_ROOT: root,
        GATE_LIMIT: String(maxBytes),
        ...(plug.kind === 'tap' ? { GATE_TAP: String(plug.owner) } : {}),
      },
    });
    const opened = Promise.withResolvers<void>();
    let isOpen = false;
    const gate = new Gate(child, () => {
      if (isOpen) options.onLost();
      else opened.reject(new Error('it ended at once'));
    });
    child.once('error', (error) => opened.reject(error));
    const decoder = new GateNewsDecoder();
    const hear = (news: GateNews) => {
      if (news.type === 'listens') opened.resolve();
      else if (news.type === 'failed') opened.reject(new Error(news.message));
      else options.onNews(news);
    };
    gate.#control.on('data', (piece: Buffer) => {
      try {
        decoder.push(piece).forEach(hear);
      } catch {
        // It is not the program that was started any more.
        child.kill('SIGKILL');
      }
    });
    using _late = deadline(OPEN_MS, () => opened.reject(new Error(`it was not ready within ${OPEN_MS} ms`)));
    try {
      await opened.promise;
      isOpen = true;
      return gate;
    } catch (cause) {
      await gate[Symbol.asyncDispose]();
      throw new CocoreError('host_unfit', `a network cannot be made: ${(cause as Error).message}`, { cause });
    }
  }

  /** The network namespace that the sandbox is connected to, as a file. */
  get namespacePath(): string {
    return `/proc/${this.#child.pid}/fd/${NAMESPACE_FD}`;
  }

  tell(order: GateOrder): void {
    if (this.#control.writable) this.#control.write(encodeOrder(order));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOurs = true;
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}
