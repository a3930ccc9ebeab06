import { IdMaker } from '@cocore/protocol';
import type { Store } from '../store.ts';
import type { Context } from '../verbs/context.ts';
import { STATEMENTS } from '../verbs/statements.ts';
import { openDatabase } from './database.ts';
import { type AnyVerb, type AskedReads, IN_ONE_COMMIT, READ_VERBS } from '../verbs/verbs.ts';
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
    db: STATEMENTS,
    now,
    random: () => {
      throw new Error('reading makes no ids');
    },
    ids: new IdMaker(),
  };
  const reads = Object.fromEntries(
    Object.entries(READ_VERBS).map(([name, verb]) => {
      const read = (parameters: readonly unknown[]) => db.drive((verb as AnyVerb)(context, ...parameters));
      const isOne = IN_ONE_COMMIT.has(name);
      return [name, async (...parameters: unknown[]) => (isOne ? db.read(() => read(parameters)) : read(parameters))];
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
