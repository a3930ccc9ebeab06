import { Writable } from 'node:stream';
import { type Logger, pino } from 'pino';

/** A server's log of which only its own faults are kept: what it logs as an error, nobody but it can be to blame for. */
export class ErrorLog {
  readonly logger: Logger;
  readonly #lines: string[] = [];

  constructor() {
    const sink = new Writable({
      write: (line: Buffer, _, done) => {
        this.#lines.push(line.toString('utf8'));
        done();
      },
    });
    this.logger = pino({ level: 'error' }, sink);
  }

  /** @throws Error with the first line, if there is any */
  check(): void {
    if (this.#lines.length > 0) throw new Error(`the server logs ${this.#lines.shift()!.slice(0, 2000)}`);
  }
}
