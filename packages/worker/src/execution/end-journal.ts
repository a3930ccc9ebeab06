import { AttemptAccepted, AttemptEnded } from '@cocore/protocol';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { z } from 'zod';

const EndRecord = z.object({
  version: z.literal(1),
  /** What accepted the attempt; a later life of the daemon may have another driver. */
  driver: AttemptAccepted.shape.driver,
  isolation: AttemptAccepted.shape.isolation,
  /** When the function's process ran, in milliseconds of the host's wall clock; null when it never did. */
  startedAtMs: z.number().nullable(),
  ended: AttemptEnded,
});

/** All that a later life of the daemon needs in order to report an end. */
export type EndRecord = z.infer<typeof EndRecord>;

/** How an entry gets to the disk: when it resolves, the file and its name are there for good. */
export type PlaceEntry = (directory: string, name: string, text: string) => Promise<void>;

export interface EndJournalParts {
  readonly directory: string;
  /** Whether this worker's key has signed the end. */
  readonly isOurs: (ended: AttemptEnded) => boolean;
  readonly log: Logger;
  readonly place?: PlaceEntry;
  /** How long an attempt waits for the disk. */
  readonly patienceMs?: number;
}

const ENTRY = /^(at_[0-9a-z]{26})\.json$/;
const SET_ASIDE = '.unreadable';
/** An end is far shorter. */
const MAX_ENTRY_BYTES = 64 * 1024;
const MAX_SET_ASIDE = 100;
const PATIENCE_MS = 5_000;

/**
 * The ends that the control server has not acknowledged yet, one file each in a directory of their own, so that a daemon which dies after
 * a function ended still says in its next life how it did. What is written down are facts that the worker has signed: lengths, digests, the
 * outcome; no output. There are never more files than attempts that this worker may have at once.
 */
export class EndJournal {
  readonly #parts: EndJournalParts;
  readonly #place: PlaceEntry;
  readonly #turns = new Map<string, Promise<void>>();

  private constructor(parts: EndJournalParts) {
    this.#parts = parts;
    this.#place = parts.place ?? placeDurably;
  }

  /** Takes up what earlier lives left, in the order of the attempts. What cannot be read, or is not this worker's, is set aside. */
  static async open(parts: EndJournalParts): Promise<{ journal: EndJournal; left: EndRecord[] }> {
    const journal = new EndJournal(parts);
    await mkdir(parts.directory, { recursive: true, mode: 0o700 });
    const names = (await readdir(parts.directory)).sort();
    let setAside = names.filter((name) => name.endsWith(SET_ASIDE)).length;
    const left: EndRecord[] = [];
    for (const name of names) {
      if (name.endsWith(SET_ASIDE)) continue;
      if (!ENTRY.test(name)) {
        // It was being written when the daemon died.
        await rm(join(parts.directory, name), { force: true });
        continue;
      }
      const record = await journal.#read(name);
      if (typeof record !== 'string') left.push(record);
      else {
        await journal.#setAside(name, record, setAside < MAX_SET_ASIDE);
        setAside += 1;
      }
    }
    return { journal, left };
  }

  /**
   * Writes an end down. Resolves when it is durable, or when the disk fails or keeps the attempt waiting too long: then the end is kept in
   * memory only, and the log says so.
   */
  async write(record: EndRecord): Promise<void> {
    const { attemptId } = record.ended;
    const { directory, log, patienceMs = PATIENCE_MS } = this.#parts;
    const written = this.#inTurn(attemptId, () =>
      this.#place(directory, `${attemptId}.json`, `${JSON.stringify(record)}\n`).catch((error: unknown) => {
        log.error({ err: error, attemptId }, 'an end could not be written down, and is kept in memory only');
      }),
    );
    const given = new AbortController();
    const late = sleep(patienceMs, true, { signal: given.signal }).catch(() => false);
    const isLate = await Promise.race([written.then(() => false), late]);
    given.abort();
    if (isLate)
      log.error({ attemptId, patienceMs }, 'the disk takes too long for an end, which is in memory only so far');
  }

  /** The control server has the end, or wants none. */
  async remove(attemptId: string): Promise<void> {
    const path = join(this.#parts.directory, `${attemptId}.json`);
    // Should it come back with a power cut, it is told once more, and acknowledged or revoked again.
    await this.#inTurn(attemptId, () =>
      rm(path, { force: true }).catch((error: unknown) => {
        this.#parts.log.error({ err: error, attemptId }, 'an end that was told could not be removed');
      }),
    );
  }

  /** One thing after the other for each attempt. */
  #inTurn(attemptId: string, work: () => Promise<void>): Promise<void> {
    const turn = (this.#turns.get(attemptId) ?? Promise.resolve()).then(work).finally(() => {
      if (this.#turns.get(attemptId) === turn) this.#turns.delete(attemptId);
    });
    this.#turns.set(attemptId, turn);
    return turn;
  }

  /** The record, or what is wrong with the entry. */
  async #read(name: string): Promise<EndRecord | string> {
    const path = join(this.#parts.directory, name);
    let value: unknown;
    try {
      if ((await stat(path)).size > MAX_ENTRY_BYTES) return 'it is too long';
      value = JSON.parse(await readFile(path, 'utf8'));
    } catch (error) {
      return error instanceof Error ? error.message : 'it cannot be read';
    }
    const record = EndRecord.safeParse(value);
    if (!record.success) return 'it is not an end';
    const { ended } = record.data;
    if (ended.attemptId !== ENTRY.exec(name)?.[1]) return 'it is of another attempt';
    return this.#parts.isOurs(ended) ? record.data : 'its signature is not this worker’s';
  }

  async #setAside(name: string, why: string, isKept: boolean): Promise<void> {
    const { directory, log } = this.#parts;
    const path = join(directory, name);
    const file = isKept ? `${path}${SET_ASIDE}` : null;
    try {
      await (file === null ? rm(path) : rename(path, file));
      log.error({ entry: name, why, file }, 'an end of an earlier life cannot be read, and is set aside');
    } catch (error) {
      log.error({ err: error, entry: name, why }, 'an end of an earlier life cannot be read, nor set aside');
    }
  }
}

async function placeDurably(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `${name}.new`);
  try {
    await using file = await open(temporary, 'w', 0o600);
    await file.writeFile(text);
    await file.sync();
    await rename(temporary, join(directory, name));
    await using names = await open(directory, 'r');
    await names.sync();
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}
