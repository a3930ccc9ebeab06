import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';

type Json = Readonly<Record<string, unknown>>;

/** QEMU's monitor: one command at a time, and its events. */
export class Qmp {
  readonly #stream: Duplex;
  readonly #ready: Promise<void>;
  #waiting: PromiseWithResolvers<Json>[] = [];
  #isClosed = false;

  constructor(stream: Duplex, onEvent: (name: string, data: Json) => void) {
    this.#stream = stream;
    stream.on('error', () => undefined);
    const greeted = Promise.withResolvers<void>();
    createInterface({ input: stream })
      .on('line', (line) => {
        const message = JSON.parse(line) as Json;
        if ('QMP' in message) greeted.resolve();
        else if (typeof message['event'] === 'string') onEvent(message['event'], (message['data'] ?? {}) as Json);
        else if ('error' in message) this.#waiting.shift()?.reject(new Error(JSON.stringify(message['error'])));
        else this.#waiting.shift()?.resolve(message['return'] as Json);
      })
      .on('error', () => undefined);
    // Of the stream itself: lines of one that was reset do not end.
    stream.on('close', () => {
      this.#isClosed = true;
      greeted.reject(new Error('QEMU ended before it could be spoken to'));
      for (const one of this.#waiting) one.reject(closed());
      this.#waiting = [];
    });
    this.#ready = greeted.promise.then(async () => void (await this.#send('qmp_capabilities')));
    this.#ready.catch(() => undefined);
  }

  async execute(command: string, parameters: Json = {}): Promise<Json> {
    await this.#ready;
    return this.#send(command, parameters);
  }

  #send(command: string, parameters: Json = {}): Promise<Json> {
    // Nobody would answer.
    if (this.#isClosed) return Promise.reject(closed());
    const answer = Promise.withResolvers<Json>();
    this.#waiting.push(answer);
    this.#stream.write(`${JSON.stringify({ execute: command, arguments: parameters })}\n`);
    return answer.promise;
  }
}

const closed = () => new Error('QEMU’s monitor is closed');
