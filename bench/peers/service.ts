/** Programs that the bench starts: ready when they are, gone when they are disposed of. */
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';

const STOP_MS = 20_000;
const MAX_KEPT_CHARACTERS = 10_000;

export interface ProgramOptions extends SpawnOptions {
  /** What says that it goes. */
  readonly stopSignal?: NodeJS.Signals;
}

/** One that runs until it is disposed of. What it printed last is in the error when it ends too early. */
export class Program implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #stopSignal: NodeJS.Signals;
  readonly #changed: (() => void)[] = [];
  #printed = '';

  constructor(command: string, args: readonly string[], { stopSignal = 'SIGTERM', ...options }: ProgramOptions = {}) {
    this.#stopSignal = stopSignal;
    this.#child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    this.#ended = once(this.#child, 'exit');
    this.#ended.catch(() => undefined);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#printed = (this.#printed + text).slice(-MAX_KEPT_CHARACTERS);
        for (const changed of this.#changed) changed();
      });
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Waits until what it prints matches. @throws when it ends before */
  async prints(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.#printed);
      if (match !== null) return match;
      await this.#wait();
    }
  }

  /** Waits until it answers. @throws when it ends before */
  async answers(isThere: () => Promise<unknown>): Promise<void> {
    for (;;) {
      const there = await isThere().then(
        () => true,
        () => false,
      );
      if (there) return;
      await Promise.race([this.#wait(), new Promise((resolve) => setTimeout(resolve, 50))]);
    }
  }

  async #wait(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#changed.push(resolve);
    await Promise.race([promise, this.#ended]);
    this.#changed.splice(this.#changed.indexOf(resolve), 1);
    if (this.#hasEnded) throw new Error(`${this.#child.spawnfile} ended: ${this.#printed}`);
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#hasEnded || this.#child.pid === undefined) return;
    this.#child.kill(this.#stopSignal);
    const killed = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    await this.#ended;
    clearTimeout(killed);
  }
}

/** Of the loopback; nobody has it now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
