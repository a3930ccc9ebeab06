import { type AttemptStream, CocoreError } from '@cocore/protocol';
import { refused, S3Client } from '../s3/client.ts';
import type { S3Options } from '../s3/options.ts';

/** A stream that is kept, in a file of this server's: its length, and its SHA-256 in hexadecimal. */
export interface KeptStream {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Whole streams of attempts that nothing is added to any more: objects `PREFIXoutput/ATTEMPT.STREAM` of one bucket. */
export class OutputArchive implements Disposable {
  readonly #client: S3Client;

  constructor(options: S3Options) {
    this.#client = new S3Client(options);
  }

  /** @throws CocoreError as `S3Client.claim` */
  open(serverId: string): Promise<void> {
    return this.#client.claim(serverId);
  }

  /** What is there already is the same. @throws CocoreError `not_ready` */
  async keep(attemptId: string, stream: AttemptStream, kept: KeptStream): Promise<void> {
    await this.#client.put(keyOf(attemptId, stream), kept);
  }

  /**
   * From `offset` up to (not including) `end`. A connection that breaks, as one that a slow reader lets idle, is made again where it was.
   *
   * @throws CocoreError `not_ready` where the store does not give it
   */
  async *read(attemptId: string, stream: AttemptStream, offset: number, end: number): AsyncGenerator<Uint8Array> {
    const key = keyOf(attemptId, stream);
    for (let at = offset; at < end;) {
      const from = at;
      try {
        for await (const piece of this.#readOnce(key, from, end)) {
          at += piece.length;
          yield piece;
        }
      } catch (error) {
        if (error instanceof CocoreError || at === from) throw error;
      }
      if (at === from) throw new CocoreError('not_ready', `the object store has less of ${key} than was kept`);
    }
  }

  async *#readOnce(key: string, offset: number, end: number): AsyncGenerator<Uint8Array> {
    const headers = { range: `bytes=${offset}-${end - 1}` };
    const response = await this.#client.send({ method: 'GET', key, headers });
    try {
      if (response.statusCode !== 206) throw await refused(response);
      yield* response as AsyncIterable<Uint8Array>;
    } finally {
      response.destroy();
    }
  }

  async remove(attemptId: string, stream: AttemptStream): Promise<void> {
    await this.#client.remove(keyOf(attemptId, stream));
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

const keyOf = (attemptId: string, stream: AttemptStream): string => `output/${attemptId}.${stream}`;
