import { DatabaseSync } from 'node:sqlite';
import { IdMaker } from '@cocore/protocol';
import { DiskFailure } from '../../packages/control/src/disk-failure.ts';
import type { Context } from '../../packages/control/src/store/verbs/context.ts';
import { Database } from '../../packages/control/src/store/sqlite/database.ts';
import { migrate, readMigrations } from '../../packages/control/src/store/sqlite/migrate.ts';
import {
  type AnyVerb,
  type AskedReads,
  type AskedWrites,
  IN_ONE_COMMIT,
  READ_VERBS,
  WRITE_VERBS,
  type WriteVerb,
} from '../../packages/control/src/store/verbs/verbs.ts';
import { STATEMENTS, type Verb } from '../../packages/control/src/store/verbs/statements.ts';
import type { Store } from '../../packages/control/src/store/store.ts';
import type { World } from './world.ts';

/** The control server's disk: what is committed is there in every life. */
export class Disk {
  readonly connection = new DatabaseSync(':memory:');
  /** Nothing can be written. */
  isFull = false;
  /** This share of what it is asked fails, reads too. */
  failingShare = 0;
  /** Planted: answers this verb as if it were committed, now and then, and does not do it. */
  forgets: WriteVerb | null = null;
  /** What a commit takes longer than usual. */
  stallMs = 0;

  readonly #tool = new Database(this.connection);
  readonly #ids = new IdMaker();

  constructor(nowMs: number) {
    migrate(this.#tool, nowMs, MIGRATIONS);
  }

  /** Runs a verb outside of the simulation, as an operator's tool would. */
  do<T>(nowMs: number, random: World['random'], verb: (context: Context) => Verb<T>): T {
    const context = {
      db: STATEMENTS,
      now: () => nowMs,
      random: randomBytesOf(random),
      ids: this.#ids,
    };
    return this.#tool.drive(verb(context));
  }

  close(): void {
    this.connection.close();
  }
}

const MIGRATIONS = readMigrations();
/** From the asker to the writer, and back. */
const HOP_MS = 0.4;
const COMMIT_MS = 2;

export const randomBytesOf =
  (random: World['random']) =>
  (count: number): Uint8Array =>
    Uint8Array.from({ length: count }, () => random.int(0, 255));

/** The share of what a planted fault forgets. */
const FORGOTTEN = 0.05;

/**
 * The store of one life of the control server: the real verbs on a database in memory, in groups as the real writer commits them. What was asked
 * for and is not committed when the life ends, is not; what is committed may not be answered any more.
 */
export function simStore(world: World, disk: Disk, nowMs: () => number): Store {
  const db = new Database(disk.connection);
  let writtenMs = 0;
  let answeredMs = 0;
  let hasFailed = false;
  const random = randomBytesOf(world.random);
  const ids = new IdMaker();
  const fails = () => disk.failingShare > 0 && world.random.chance(disk.failingShare);
  const inOrder = (lastMs: number, delayMs: number) => Math.max(lastMs, performance.now() + delayMs);

  const ask = async (verb: WriteVerb, parameters: readonly unknown[]): Promise<unknown> => {
    const askedAtMs = nowMs();
    const context: Context = { db: STATEMENTS, now: () => askedAtMs, random, ids };
    writtenMs = inOrder(writtenMs, disk.stallMs + world.random.next() * COMMIT_MS);
    await until(writtenMs);
    if (verb === disk.forgets && world.random.chance(FORGOTTEN)) return 'recorded';
    try {
      return await db.write(() => {
        if (disk.isFull || fails()) throw new DiskFailure('ENOSPC: no space left on device');
        return db.drive((WRITE_VERBS[verb] as AnyVerb)(context, ...parameters));
      });
    } catch (error) {
      if (error instanceof DiskFailure) hasFailed = true;
      throw error;
    } finally {
      answeredMs = inOrder(answeredMs, world.random.next() * HOP_MS);
      await until(answeredMs);
    }
  };
  const writes = Object.fromEntries(
    Object.keys(WRITE_VERBS).map((verb) => [verb, (...parameters: unknown[]) => ask(verb as WriteVerb, parameters)]),
  ) as AskedWrites;
  const context: Context = { db: STATEMENTS, now: nowMs, random, ids };
  const reads = Object.fromEntries(
    Object.entries(READ_VERBS).map(([name, verb]) => [
      name,
      async (...parameters: unknown[]) => {
        if (fails()) throw new DiskFailure('EIO: i/o error');
        const read = () => db.drive((verb as AnyVerb)(context, ...parameters));
        return IN_ONE_COMMIT.has(name) ? db.read(read) : read();
      },
    ]),
  ) as unknown as AskedReads;
  return {
    ...writes,
    ...reads,
    isWritable: async () => {
      if (!hasFailed) return true;
      hasFailed = false;
      return writes.tryWrite().then(
        () => true,
        () => false,
      );
    },
    close: async () => undefined,
  };
}

/** By the clock of the life. */
function until(atMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, atMs - performance.now()));
}
