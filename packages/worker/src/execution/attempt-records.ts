import { AttemptAccepted, AttemptId, TaskSpec } from '@cocore/protocol';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { placeDurably } from '../host/place-durably.ts';

/** What is needed of a task once its function runs: its clocks, its limits, its share, and what it may still read. */
export const RunningTask = TaskSpec.omit({
  argv: true,
  env: true,
  cwd: true,
  user: true,
  image: true,
  code: true,
  files: true,
});
export type RunningTask = z.infer<typeof RunningTask>;

const AttemptEntry = z.object({
  version: z.literal(1),
  attemptId: AttemptId,
  driver: AttemptAccepted.shape.driver,
  isolation: AttemptAccepted.shape.isolation,
  handle: z.object({ version: z.literal(1), driver: z.string(), name: z.string(), state: z.unknown().optional() }),
  task: RunningTask,
  /** By the uptime clock of the host's life that `bootId` names. */
  startedAtMs: z.number(),
  bootId: z.string(),
});

/** All that a later life of the daemon needs in order to go on with an attempt whose function runs. */
export type AttemptEntry = z.infer<typeof AttemptEntry>;

export interface AttemptRecordsParts {
  readonly directory: string;
  readonly log: Logger;
  readonly bootIdPath?: string;
}

/**
 * The attempts whose functions run in sandboxes that outlive the daemon, one file each. A file is there from soon after the start to the end of the
 * sandbox; what it does not name is destroyed by the next life.
 */
export class AttemptRecords {
  readonly bootId: string;
  readonly #parts: AttemptRecordsParts;
  readonly #turns = new Map<string, Promise<unknown>>();

  private constructor(parts: AttemptRecordsParts, bootId: string) {
    this.#parts = parts;
    this.bootId = bootId;
  }

  /** Takes up what an earlier life left. What cannot be read, or is of an earlier life of the host, is removed: its sandbox is gone, or is nobody's. */
  static async open(parts: AttemptRecordsParts): Promise<{ records: AttemptRecords; left: AttemptEntry[] }> {
    const bootId = (await readFile(parts.bootIdPath ?? '/proc/sys/kernel/random/boot_id', 'latin1')).trim();
    const records = new AttemptRecords(parts, bootId);
    await mkdir(parts.directory, { recursive: true, mode: 0o700 });
    const left: AttemptEntry[] = [];
    for (const name of (await readdir(parts.directory)).sort()) {
      const path = join(parts.directory, name);
      const entry = await read(path);
      if (entry !== null && entry.bootId === bootId && name === fileOf(entry.attemptId)) left.push(entry);
      else await rm(path, { force: true });
    }
    return { records, left };
  }

  /** Whether it is written down. Never rejects: an attempt that is not runs all the same, and is lost with the daemon. */
  write(entry: AttemptEntry): Promise<boolean> {
    const { directory, log } = this.#parts;
    const { attemptId } = entry;
    return this.#inTurn(attemptId, () =>
      placeDurably(directory, fileOf(attemptId), `${JSON.stringify(entry)}\n`).then(
        () => true,
        (error: unknown) => {
          log.error(
            { err: error, attemptId },
            'an attempt could not be written down, and would be lost with this daemon',
          );
          return false;
        },
      ),
    );
  }

  remove(attemptId: string): Promise<void> {
    const path = join(this.#parts.directory, fileOf(attemptId));
    return this.#inTurn(attemptId, () =>
      rm(path, { force: true }).catch((error: unknown) => {
        this.#parts.log.error({ err: error, attemptId }, 'what was written down of an attempt could not be removed');
      }),
    );
  }

  /** One thing after the other for each attempt. */
  #inTurn<T>(attemptId: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(attemptId) ?? Promise.resolve()).then(work).finally(() => {
      if (this.#turns.get(attemptId) === turn) this.#turns.delete(attemptId);
    });
    this.#turns.set(attemptId, turn);
    return turn;
  }
}

const fileOf = (attemptId: string): string => `${attemptId}.json`;

async function read(path: string): Promise<AttemptEntry | null> {
  try {
    return AttemptEntry.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return null;
  }
}
