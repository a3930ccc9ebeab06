import type { Logger } from 'pino';
import type { ExecutionSignal } from '../events.ts';

/** Longer than what `pg_notify` takes is not sent in one piece. */
const MAX_PAYLOAD_BYTES = 7_500;
/** What is told within so long goes together. */
const FLUSH_MS = 5;
/** After a failure. */
const FLUSH_AGAIN_MS = 500;
/** What cannot be sent is kept up to here; others find the rest when they look. */
const MAX_PENDING = 20_000;

/**
 * What servers tell each other: hints, which may be lost, late or wrong. Whoever hears one reads what is so.
 *
 * - an execution has news for its followers
 * - `queued`: an attempt waits that its server has no room for; `taken`: it does not wait any more
 * - `look`: something about an attempt has changed that whoever has it must know
 * - `worker`: likewise of a worker, such as its session, or that it is drained
 * - `limit`: a function allows so many at once, since this version
 * - `server`: one has come, or goes
 */
export type NewsItem =
  | readonly [ExecutionSignal, string]
  | readonly ['queued' | 'taken' | 'look', string]
  | readonly ['worker', string]
  | readonly ['limit', string, string, number, number | null]
  | readonly ['server'];

export interface NewsParts {
  readonly serverId: string;
  /** Whether there is anybody to be told. */
  readonly hasOthers: () => boolean;
  /** Sends payloads to all servers. */
  readonly send: (payloads: readonly string[]) => Promise<void>;
  readonly log: Logger;
}

/** Gathers what is to be told, and sends it a few hundred times a second at most, however much it is. */
export class News {
  readonly #parts: NewsParts;
  /** As JSON, each once. */
  #pending = new Set<string>();
  #isScheduled = false;

  constructor(parts: NewsParts) {
    this.#parts = parts;
  }

  tell(item: NewsItem): void {
    if (!this.#parts.hasOthers()) return;
    this.#add(item);
  }

  /** Also where nobody is known yet who would hear it. */
  announce(): void {
    this.#add(['server']);
  }

  /** Looks whether others can be told, and heard. */
  async check(): Promise<void> {
    await this.#parts.send([]).catch(() => undefined);
  }

  /** Sends what was told until now. False when that was not possible. */
  async flush(): Promise<boolean> {
    const told = this.#pending;
    if (told.size === 0) return true;
    this.#pending = new Set();
    try {
      await this.#parts.send(payloadsOf(this.#parts.serverId, told));
      return true;
    } catch (error) {
      this.#parts.log.warn({ err: error }, 'other servers could not be told of news');
      if (told.size + this.#pending.size < MAX_PENDING) this.#pending = new Set([...told, ...this.#pending]);
      return false;
    }
  }

  #add(item: NewsItem): void {
    this.#pending.add(JSON.stringify(item));
    this.#schedule(FLUSH_MS);
  }

  #schedule(ms: number): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setTimeout(() => {
      void this.flush().then((isSent) => {
        this.#isScheduled = false;
        if (this.#pending.size > 0) this.#schedule(isSent ? FLUSH_MS : FLUSH_AGAIN_MS);
      });
    }, ms).unref();
  }
}

function payloadsOf(serverId: string, told: Iterable<string>): string[] {
  const payloads: string[] = [];
  let items: string[] = [];
  let bytes = 0;
  const close = () => payloads.push(`[${[JSON.stringify(serverId), ...items].join(',')}]`);
  for (const item of told) {
    const length = Buffer.byteLength(item) + 1;
    if (bytes + length > MAX_PAYLOAD_BYTES && items.length > 0) {
      close();
      items = [];
      bytes = 0;
    }
    items.push(item);
    bytes += length;
  }
  close();
  return payloads;
}

/** What another server has told; nothing for one's own word, or what is none. */
export function heardOf(payload: string, serverId: string): NewsItem[] {
  let content: unknown;
  try {
    content = JSON.parse(payload);
  } catch {
    return [];
  }
  if (!Array.isArray(content) || content[0] === serverId) return [];
  return (content.slice(1) as unknown[]).filter((item) => Array.isArray(item)) as unknown as NewsItem[];
}
