import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { LostConnection } from './errors.ts';

const CHANNEL = 'cocore_news';
const CONNECT_MS = 5_000;
const CONNECT_AGAIN_MS = 500;
const ANSWER_MS = 10_000;

export interface BulletinParts {
  readonly url: string;
  readonly hear: (payload: string) => void;
  /** What was sent meanwhile was not heard. */
  readonly connected: () => void;
}

/**
 * A connection by which servers tell each other news. Who notifies within a transaction has the commits of all servers wait for each other, so nothing else
 * is written here; and nobody waits for the disk, because news may be lost. A connection that is lost is made anew.
 */
export class Bulletin implements AsyncDisposable {
  readonly #parts: BulletinParts;
  #client: pg.Client | null = null;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;

  constructor(parts: BulletinParts) {
    this.#parts = parts;
    this.#running = this.#run();
  }

  /** With none of them, it only looks whether it is connected. @throws LostConnection while it is not */
  async send(payloads: readonly string[]): Promise<void> {
    const client = this.#client;
    if (client === null) throw new LostConnection('there is no connection for news');
    const timer = setTimeout(() => destroy(client), ANSWER_MS);
    try {
      for (const payload of payloads) await client.query('SELECT pg_notify($1, $2)', [CHANNEL, payload]);
      // Who only listens notices a connection that is gone by this alone.
      if (payloads.length === 0) await client.query('SELECT 1');
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#client?.end().catch(() => undefined);
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await this.#listen().catch(() => undefined);
      await sleep(CONNECT_AGAIN_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  /** Until the connection ends. */
  async #listen(): Promise<void> {
    const { Client } = (await import('pg')).default;
    const { url, hear, connected } = this.#parts;
    const client = new Client({
      connectionString: url,
      application_name: 'cocore',
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
    });
    const ended = new Promise<void>((resolve) => {
      client.on('end', () => resolve());
      client.on('error', () => resolve());
    });
    client.on('notification', ({ payload }) => hear(payload ?? ''));
    try {
      await client.connect();
      await client.query(`SET synchronous_commit = off; LISTEN ${CHANNEL}`);
      if (this.#closing.signal.aborted) return;
      this.#client = client;
      connected();
      await ended;
    } finally {
      this.#client = null;
      await client.end().catch(() => undefined);
    }
  }
}

function destroy(client: pg.Client): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } };
  connection.stream.destroy();
}
