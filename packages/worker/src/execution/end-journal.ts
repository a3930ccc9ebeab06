import { AttemptAccepted, AttemptEnded, AttemptId } from '@cocore/protocol';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { EndLog, linesOf } from './end-log.ts';

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

const Removal = z.strictObject({ removed: AttemptId });

/** What keeps the lines. */
export type Log = Pick<EndLog, 'path' | 'hasRoom' | 'append' | 'close'>;

export interface EndJournalParts {
  readonly directory: string;
  /** Whether this worker's key has signed the end. */
  readonly isOurs: (ended: AttemptEnded) => boolean;
  readonly log: Logger;
  /** Makes a file of lines that begins with the text; durably. */
  readonly create?: (directory: string, name: string, text: string) => Promise<Log>;
  /** How long an attempt waits for the disk. */
  readonly patienceMs?: number;
}

const SET_ASIDE = '.unreadable';
const MAX_SET_ASIDE = 10;
/** An end is far shorter. */
const MAX_LINE_BYTES = 64 * 1024;
const PATIENCE_MS = 5_000;
/** A removal waits so long for an end to be written with. */
const REMOVAL_DELAY_MS = 50;

interface Waiting {
  readonly line: string;
  readonly done: (error: unknown) => void;
}

/**
 * The ends that the control server has not acknowledged yet, so that a daemon which dies after a function ended still says in its next life how it
 * did. What is written down are facts that the worker has signed: lengths, digests, the outcome; no output. They are lines of a log; ends that come
 * while the disk is busy go with the next write together. What was acknowledged is said by a line too, which nobody waits for; a log that is full is
 * followed by another one, which begins with the ends that are still there.
 */
export class EndJournal implements AsyncDisposable {
  readonly #parts: EndJournalParts;
  /** The lines of what is not acknowledged, by attempt. */
  readonly #lines = new Map<string, string>();
  #log: Log | null = null;
  /** Others that are removed when there is a new one: nobody knows what is in them. */
  readonly #broken: string[] = [];
  #serial: number;
  #ends: Waiting[] = [];
  #removals: Waiting[] = [];
  #writing: Promise<void> | null = null;
  #timer: NodeJS.Timeout | undefined;

  private constructor(parts: EndJournalParts, serial: number) {
    this.#parts = parts;
    this.#serial = serial;
  }

  /** Takes up what earlier lives left, in the order of the attempts. A log in which something cannot be read, or is not this worker's, is set aside. */
  static async open(parts: EndJournalParts): Promise<{ journal: EndJournal; left: EndRecord[] }> {
    const { directory, log } = parts;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const names = (await readdir(directory)).filter((name) => !name.endsWith(SET_ASIDE));
    const logs = names.sort((one, other) => serialOf(one) - serialOf(other));
    const journal = new EndJournal(parts, Math.max(0, ...logs.map(serialOf)));
    const left = new Map<string, EndRecord>();
    const damaged: string[] = [];
    for (const name of logs) {
      try {
        for (const [at, line] of linesOf(await readFile(join(directory, name))).entries()) {
          const why = journal.#take(line, left);
          if (why === null) continue;
          log.error({ entry: name, line: at + 1, why }, 'an end of an earlier life cannot be read');
          if (!damaged.includes(name)) damaged.push(name);
        }
      } catch (error) {
        log.error({ err: error, entry: name }, 'a log of ends cannot be read');
        damaged.push(name);
      }
    }
    for (const [attemptId, record] of left) journal.#lines.set(attemptId, lineOf(record));
    if (left.size > 0) await journal.#begin();
    for (const name of logs) {
      await (damaged.includes(name) ? journal.#setAside(name) : rm(join(directory, name), { recursive: true }));
    }
    return { journal, left: [...left].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, record]) => record) };
  }

  /**
   * Writes an end down. Resolves when it is durable, or when the disk fails or keeps the attempt waiting too long: then the end is kept in
   * memory only, and the log says so.
   */
  write(record: EndRecord): Promise<void> {
    const { attemptId } = record.ended;
    const { log, patienceMs = PATIENCE_MS } = this.#parts;
    const line = lineOf(record);
    this.#lines.set(attemptId, line);
    return new Promise((resolve) => {
      const late = setTimeout(() => {
        log.error({ attemptId, patienceMs }, 'the disk takes too long for an end, which is in memory only so far');
        resolve();
      }, patienceMs);
      const done = (error: unknown) => {
        clearTimeout(late);
        if (error !== null) {
          log.error({ err: error, attemptId }, 'an end could not be written down, and is kept in memory only');
        }
        resolve();
      };
      this.#ends.push({ line, done });
      void this.#work();
    });
  }

  /** The control server has the end, or wants none. */
  remove(attemptId: string): Promise<void> {
    if (!this.#lines.delete(attemptId)) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (error: unknown) => {
        // Should it come back, it is told once more, and acknowledged or revoked again.
        if (error !== null)
          this.#parts.log.error({ err: error, attemptId }, 'an end that was told could not be removed');
        resolve();
      };
      this.#removals.push({ line: `${JSON.stringify({ removed: attemptId })}\n`, done });
      this.#timer ??= setTimeout(() => void this.#work(), REMOVAL_DELAY_MS);
    });
  }

  /** Writes what waits. Nothing may be written or removed after it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#work();
    await this.#log?.close();
  }

  /** One write after the other, of all that waits. */
  #work(): Promise<void> {
    this.#writing ??= this.#writeAll();
    return this.#writing;
  }

  async #writeAll(): Promise<void> {
    // Ends that come in the same turn go together.
    await Promise.resolve();
    while (this.#ends.length > 0 || this.#removals.length > 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      const isDurable = this.#ends.length > 0;
      const group = [...this.#ends.splice(0), ...this.#removals.splice(0)];
      const error = await this.#append(group.map(({ line }) => line).join(''), isDurable).then(
        () => null,
        (cause: unknown) => cause,
      );
      for (const { done } of group) done(error);
    }
    this.#writing = null;
  }

  async #append(text: string, isDurable: boolean): Promise<void> {
    const log = this.#log;
    if (log === null || !log.hasRoom(Buffer.byteLength(text))) {
      await this.#begin();
      return;
    }
    try {
      await log.append(text, isDurable);
    } catch (error) {
      this.#log = null;
      this.#broken.push(log.path);
      await log.close().catch(() => undefined);
      throw error;
    }
  }

  /** Another log in the place of this one, with all that is not acknowledged. */
  async #begin(): Promise<void> {
    const { directory, create = (...at) => EndLog.create(...at) } = this.#parts;
    const before = this.#log;
    this.#serial += 1;
    const name = `${this.#serial}.log`;
    try {
      this.#log = await create(directory, name, [...this.#lines.values()].join(''));
    } catch (error) {
      await rm(join(directory, name), { force: true }).catch(() => undefined);
      throw error;
    }
    const over = this.#broken.splice(0);
    if (before !== null) {
      over.push(before.path);
      await before.close().catch(() => undefined);
    }
    for (const path of over) await rm(path, { force: true }).catch(() => undefined);
  }

  /** What is wrong with a line; null when it was taken. */
  #take(line: string, left: Map<string, EndRecord>): string | null {
    if (Buffer.byteLength(line) > MAX_LINE_BYTES) return 'it is too long';
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      return 'it is not JSON';
    }
    const removal = Removal.safeParse(value);
    if (removal.success) {
      left.delete(removal.data.removed);
      return null;
    }
    const record = EndRecord.safeParse(value);
    if (!record.success) return 'it is not an end';
    if (!this.#parts.isOurs(record.data.ended)) return 'its signature is not this worker’s';
    left.set(record.data.ended.attemptId, record.data);
    return null;
  }

  async #setAside(name: string): Promise<void> {
    const { directory, log } = this.#parts;
    const path = join(directory, name);
    const kept = (await readdir(directory)).filter((one) => one.endsWith(SET_ASIDE)).length;
    const file = kept < MAX_SET_ASIDE ? `${path}${SET_ASIDE}` : null;
    try {
      await (file === null ? rm(path, { recursive: true }) : rename(path, file));
      log.error({ entry: name, file }, 'a log of ends is set aside');
    } catch (error) {
      log.error({ err: error, entry: name }, 'a log of ends cannot be set aside');
    }
  }
}

const lineOf = (record: EndRecord): string => `${JSON.stringify(record)}\n`;

/** Which of the logs it is, from the first; what has no such name comes before them. */
const serialOf = (name: string): number => Number(/^(\d{1,15})\.log$/.exec(name)?.[1] ?? 0);
