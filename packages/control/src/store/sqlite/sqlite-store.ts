import type { Store } from '../store.ts';
import type { Context } from './context.ts';
import { openDatabase } from './database.ts';
import { type AskedReads, READ_VERBS } from './verbs.ts';
import { Writer } from './writer.ts';

export interface SqliteStoreOptions {
  readonly path: string;
  /** Milliseconds since the Unix epoch. */
  readonly now?: () => number;
}

/**
 * The store in one SQLite file: write-ahead log, synced at each group's commit. One thread writes; what only reads sees the last
 * commit, on a connection of its own.
 */
export async function openSqliteStore(options: SqliteStoreOptions): Promise<Store> {
  const now = options.now ?? Date.now;
  const writer = await Writer.start(options.path, now);
  const db = openDatabase(options.path, { readOnly: true });
  const context: Context = {
    db,
    now,
    random: () => {
      throw new Error('reading makes no ids');
    },
  };
  const reads = Object.fromEntries(
    Object.entries(READ_VERBS).map(([name, verb]) => {
      const read = verb as (context: Context, ...parameters: readonly unknown[]) => unknown;
      return [name, async (...parameters: unknown[]) => read(context, ...parameters)];
    }),
  ) as unknown as AskedReads;
  return {
    ...writer.verbs,
    ...reads,
    isWritable: () => writer.isWritable(),
    close: async () => {
      await writer.close();
      db.close();
    },
  };
}
