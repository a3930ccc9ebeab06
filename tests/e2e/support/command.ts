import { type ChildProcessByStdio, spawn, type SpawnOptionsWithStdioTuple } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const COCORE = `${ROOT}/packages/cli/bin/cocore.js`;

export type Environment = Record<string, string>;
/** Whose process it is; the test's own user if not said. */
export type User = { readonly uid?: number; readonly gid?: number };

/** One `cocore` command under way, with what it printed and when. */
export class Command {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly chunks: { atMs: number; stream: 'stdout' | 'stderr'; data: Buffer }[] = [];
  /** Resolves when the command has ended and its streams are closed. */
  readonly ended: Promise<Result>;
  readonly #watchers = new Set<() => void>();

  constructor(args: readonly string[], env: Environment, stdin: Uint8Array | 'keep open', user: User = {}) {
    const options: SpawnOptionsWithStdioTuple<'pipe', 'pipe', 'pipe'> = { stdio: ['pipe', 'pipe', 'pipe'], ...user };
    this.child = spawn(process.execPath, [COCORE, ...args], { ...options, cwd: ROOT, env });
    // The command may end before it has read its input.
    this.child.stdin.on('error', () => undefined);
    if (stdin !== 'keep open') this.child.stdin.end(stdin);
    for (const stream of ['stdout', 'stderr'] as const) {
      this.child[stream].on('data', (data: Buffer) => {
        this.chunks.push({ atMs: performance.now(), stream, data });
        for (const watcher of this.#watchers) watcher();
      });
    }
    this.ended = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (code, signal) => {
        for (const watcher of this.#watchers) watcher();
        resolve({ code, signal, stdout: this.bytes('stdout'), stderr: this.text('stderr') });
      });
    });
  }

  bytes(stream: 'stdout' | 'stderr'): Buffer {
    return Buffer.concat(this.chunks.filter((chunk) => chunk.stream === stream).map((chunk) => chunk.data));
  }

  text(stream: 'stdout' | 'stderr'): string {
    return this.bytes(stream).toString('utf8');
  }

  /** Waits until the stream's text matches. @throws when the command ends before it does */
  async waitFor(stream: 'stdout' | 'stderr', pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.text(stream));
      if (match !== null) return match;
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        const result = await this.ended;
        const late = pattern.exec(this.text(stream));
        if (late !== null) return late;
        throw new Error(`the command ended (${result.code ?? result.signal}) before ${pattern}: ${result.stderr}`);
      }
      await new Promise<void>((resolve) => {
        const watcher = () => {
          this.#watchers.delete(watcher);
          resolve();
        };
        this.#watchers.add(watcher);
        this.child.once('exit', watcher);
      });
    }
  }
}

export interface Result {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export function start(
  args: readonly string[],
  env: Environment,
  stdin: Uint8Array | 'keep open' = Buffer.alloc(0),
  user: User = {},
) {
  return new Command(args, env, stdin, user);
}

export async function cocore(args: readonly string[], env: Environment, stdin?: Uint8Array): Promise<Result> {
  return start(args, env, stdin).ended;
}
