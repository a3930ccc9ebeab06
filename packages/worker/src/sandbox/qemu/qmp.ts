import { z } from 'zod';
import type { Duplex } from 'node:stream';

/** The longest line that is taken from QEMU; its answers to what is asked here are a few hundred bytes. */
const MAX_LINE_BYTES = 256 * 1024;

const Line = z.union([
  z.object({ return: z.unknown(), id: z.number() }),
  z.object({ error: z.object({ desc: z.string() }), id: z.number().optional() }),
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).optional() }),
  z.object({ QMP: z.unknown() }),
]);

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface Watcher {
  readonly matches: (event: string, data: Readonly<Record<string, unknown>>) => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * QEMU's machine protocol (docs/interop/qmp-spec in QEMU) over the stream that the monitor inherited. A monitor that a guest has taken over
 * may write anything: lines are bounded and parsed strictly, and what cannot be read ends the conversation.
 */
export class Qmp {
  readonly #stream: Duplex;
  readonly #waiting = new Map<number, Waiting>();
  readonly #watchers = new Set<Watcher>();
  #text = '';
  #serial = 0;
  #failure: Error | null = null;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => this.#read(text));
    for (const event of ['error', 'end', 'close']) stream.on(event, () => this.#fail(new Error('QEMU ended')));
    void this.execute('qmp_capabilities').catch(() => undefined);
  }

  /** One command's answer. @throws Error with QEMU's own words when it refuses, or when it ends before it answers */
  async execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#failure !== null) throw this.#failure;
    this.#serial += 1;
    const id = this.#serial;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.set(id, {
      resolve,
      reject: (error) => reject(new Error(`${command}: ${error.message}`, { cause: error })),
    });
    this.#stream.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return promise;
  }

  /** Resolves at the next event that matches. Rejects when QEMU ends before. */
  event(matches: Watcher['matches']): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => undefined);
    if (this.#failure === null) this.#watchers.add({ matches, resolve, reject });
    else reject(this.#failure);
    return promise;
  }

  #read(text: string): void {
    this.#text += text;
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      if (this.#failure !== null) return;
      try {
        this.#take(Line.parse(JSON.parse(line)));
      } catch {
        this.#fail(new Error('QEMU said what is not its protocol'));
      }
    }
    if (this.#text.length > MAX_LINE_BYTES) this.#fail(new Error('QEMU’s line is too long'));
  }

  #take(line: z.infer<typeof Line>): void {
    if ('event' in line) {
      for (const watcher of this.#watchers) {
        if (!watcher.matches(line.event, line.data ?? {})) continue;
        this.#watchers.delete(watcher);
        watcher.resolve();
      }
    } else if ('return' in line) {
      this.#answered(line.id)?.resolve(line.return);
    } else if ('error' in line && line.id !== undefined) {
      this.#answered(line.id)?.reject(new Error(line.error.desc));
    }
  }

  #answered(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#text = '';
    for (const { reject } of [...this.#waiting.values(), ...this.#watchers]) reject(this.#failure);
    this.#waiting.clear();
    this.#watchers.clear();
    this.#stream.destroy();
  }
}
