import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';

export interface DaemonOptions {
  readonly name: string;
  /** The file that Node runs. */
  readonly main: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** What runs it, such as a host's network; nothing if not given. */
  readonly within?: readonly string[];
  /** Where what it logs goes, over all its lives. */
  readonly logPath: string;
}

/** One life of a daemon. */
interface Life {
  readonly child: ChildProcess;
  readonly ready: Promise<string>;
  readonly ended: Promise<void>;
  /** The test ends it. */
  expected: boolean;
}

/**
 * A daemon as a process of its own, which may die and live again. It is killed with this process. A death that was not asked for is written
 * down.
 */
export class Daemon implements AsyncDisposable {
  readonly name: string;
  /** Of all lives, resident. */
  memoryPeakKiB = 0;
  /** What nobody asked for. */
  readonly surprises: string[] = [];
  /** Of the lives that were asked to stop. */
  readonly stoppedPids: number[] = [];
  readonly #options: DaemonOptions;
  #life: Life | null = null;

  constructor(options: DaemonOptions) {
    this.name = options.name;
    this.#options = options;
  }

  get pid(): number | null {
    return this.#life?.child.pid ?? null;
  }

  /** Starts it; nothing when it lives. Resolves with what it says when it is ready; never, when it dies before. */
  async start(): Promise<string> {
    if (this.#life !== null) return this.#life.ready;
    const { main, args, env, logPath, within = [] } = this.#options;
    const log = openSync(logPath, 'a');
    const [program, ...words] = [...within, 'setpriv', '--pdeathsig', 'KILL', process.execPath, main, ...args];
    const child = spawn(program!, words, { env, stdio: ['ignore', 'pipe', log] });
    closeSync(log);
    const ready = Promise.withResolvers<string>();
    const ended = Promise.withResolvers<void>();
    const life: Life = { child, ready: ready.promise, ended: ended.promise, expected: false };
    this.#life = life;
    let printed = '';
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      printed = (printed + text).slice(-1_000);
      const said = /^ready (\S+)$/m.exec(printed);
      if (said !== null) ready.resolve(said[1]!);
    });
    child.once('error', (error) => this.surprises.push(`${this.name}: ${error.message}`));
    child.once('close', (code, signal) => {
      if (!life.expected) this.surprises.push(`${this.name} ended by itself (${code ?? signal}): ${this.#lastWords()}`);
      else if (signal === null && code !== 0) this.surprises.push(`${this.name} stopped with ${code}`);
      if (this.#life === life) this.#life = null;
      ended.resolve();
    });
    return life.ready;
  }

  /** Takes the measure of it. */
  sample(): void {
    if (this.pid === null) return;
    try {
      const status = readFileSync(`/proc/${this.pid}/status`, 'latin1');
      this.memoryPeakKiB = Math.max(this.memoryPeakKiB, Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0));
    } catch {
      // It has just ended.
    }
  }

  /** Ends it by a signal and waits until it is gone. */
  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const life = this.#life;
    if (life === null) return;
    this.sample();
    life.expected = true;
    if (signal === 'SIGTERM') this.stoppedPids.push(life.child.pid!);
    life.child.kill(signal);
    await life.ended;
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#life?.child.kill(signal);
  }

  /** Stops it as an operator does; after a while by force, which is a surprise. */
  async [Symbol.asyncDispose](): Promise<void> {
    const life = this.#life;
    if (life === null) return;
    const tooLong = setTimeout(() => {
      this.surprises.push(`${this.name} did not stop within 30 s`);
      life.child.kill('SIGKILL');
    }, 30_000);
    await this.end('SIGTERM');
    clearTimeout(tooLong);
  }

  #lastWords(): string {
    return readFileSync(this.#options.logPath, 'utf8').split('\n').slice(-4).join(' ').trim().slice(-500);
  }
}
