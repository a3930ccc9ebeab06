import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ATTEMPT_STREAMS, type AttemptStream } from '@cocore/protocol';
import type { Logger } from 'pino';
import { INLINE_OUTPUT_BYTES, type LargeOutput, type Store } from '../store/store.ts';
import type { KeptStream, OutputArchive } from './output-archive.ts';
import type { OutputStore } from './output-store.ts';

const SWEEP_MS = 5_000;
const PAGE = 20;

export interface OutputArchiverParts {
  readonly store: Store;
  readonly output: OutputStore;
  readonly archive: OutputArchive;
  /** Of this server alone, for what is under way; made when needed. */
  readonly directory: string;
  readonly log: Logger;
}

/**
 * Takes output of executions that have ended to the archive, and what it took out of the store. Until that is committed the store has all of it; an archive that
 * cannot be reached is tried again.
 */
export class OutputArchiver {
  readonly #parts: OutputArchiverParts;

  constructor(parts: OutputArchiverParts) {
    this.#parts = parts;
  }

  /** Sweeps at once and every 5 s until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    await rm(this.#parts.directory, { recursive: true, force: true });
    await mkdir(this.#parts.directory, { recursive: true, mode: 0o700 });
    while (!signal.aborted) {
      await this.sweep(signal).catch((error: unknown) =>
        this.#parts.log.error({ err: error }, 'output could not be archived, and stays where it is'),
      );
      await sleep(SWEEP_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async sweep(signal: AbortSignal): Promise<void> {
    const { store } = this.#parts;
    for (let after = ''; !signal.aborted;) {
      const page = await store.beginArchiving(after, PAGE);
      for (const one of page) {
        if (signal.aborted) return;
        await this.#archive(one);
      }
      if (page.length < PAGE) return;
      after = page.at(-1)!.attemptId;
    }
  }

  async #archive(attempt: LargeOutput): Promise<void> {
    const { store, output, archive } = this.#parts;
    const streams = ATTEMPT_STREAMS.filter((stream) => attempt.bytes[stream] > INLINE_OUTPUT_BYTES);
    for (const stream of streams) await this.#keep(attempt, stream);
    if (await store.recordArchived(attempt)) {
      await output.removeFiles(attempt.attemptId);
      return;
    }
    // It was kept no more, and whoever removed it may have come before the objects.
    for (const stream of streams) await archive.remove(attempt.attemptId, stream);
  }

  async #keep(attempt: LargeOutput, stream: AttemptStream): Promise<void> {
    const { archive, directory } = this.#parts;
    const path = join(directory, randomUUID());
    try {
      await archive.keep(attempt.attemptId, stream, await this.#copy(attempt, stream, path));
    } finally {
      await rm(path, { force: true });
    }
  }

  /** In a file, since its name's signature needs its digest. */
  async #copy(attempt: LargeOutput, stream: AttemptStream, path: string): Promise<KeptStream> {
    const hash = createHash('sha256');
    const bytes = attempt.bytes[stream];
    await using file = await open(path, 'wx', 0o600);
    for await (const piece of this.#parts.output.read(attempt, stream, 0, bytes)) {
      hash.update(piece);
      await file.writeFile(piece);
    }
    return { path, bytes, sha256: hash.digest('hex') };
  }
}
