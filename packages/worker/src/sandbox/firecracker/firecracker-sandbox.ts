import type { Socket } from 'node:net';
import { ConsoleRing, lastLine } from '../console-ring.ts';
import { ProcessSandbox } from '../process-sandbox.ts';

const CONSOLE_CHARACTERS = 64 * 1024;
const LOG_BYTES = 8 * 1024;
const METRICS_BYTES = 32 * 1024;

/** A sandbox whose monitor writes a log and metrics to named pipes. A guest can make it write much; what is kept is bounded. */
export class FirecrackerSandbox extends ProcessSandbox {
  readonly #log = new ConsoleRing(LOG_BYTES);
  readonly #metrics = new ConsoleRing(METRICS_BYTES);

  /** Takes what comes out of the pipes until the monitor has ended. */
  take(pipes: { readonly log: Socket; readonly metrics: Socket }): void {
    pipes.log.on('data', (bytes: Buffer) => this.#log.push(bytes));
    pipes.metrics.on('data', (bytes: Buffer) => this.#metrics.push(bytes));
    for (const pipe of [pipes.log, pipes.metrics]) {
      pipe.on('error', () => undefined);
      // What the monitor wrote last is in the pipe, and is read before this.
      void this.exited.then(() => setImmediate(() => pipe.destroy()));
    }
  }

  /** What the monitor said, then what the guest's console shows. */
  override console(): string {
    const shown = super.console();
    return `${this.#log.text()}${shown === '' ? 'the guest printed nothing\n' : shown}`.slice(-CONSOLE_CHARACTERS);
  }

  /** The last line of the launcher, the jailer or the guest; where there is none, the monitor's. */
  override lastWord(): string {
    return super.lastWord() || lastLine(this.#log.text());
  }

  /** The last of the monitor's metrics, JSON lines of which the first may be cut. For diagnosis only. */
  metrics(): string {
    return this.#metrics.text();
  }
}
