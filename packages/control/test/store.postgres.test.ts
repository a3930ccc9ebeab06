import { after, before, describe } from 'node:test';
import { openPostgresStore } from '../src/store/postgres/postgres-store.ts';
import { storeConformance } from './store.conformance.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';

describe('on PostgreSQL', { skip: postgresSkip }, () => {
  let postgres: TestPostgres;
  /** One database for all tests, emptied for each: making one takes as long as a test. */
  let url: string;
  let isFresh = false;
  before(async () => {
    postgres = await TestPostgres.start();
    url = await postgres.create();
  });
  after(() => postgres[Symbol.asyncDispose]());

  const empty = async () => {
    const tables = await postgres.query<{ name: string }>(
      `SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'migrations'`,
      url,
    );
    // In any order, whatever refers to what; cheaper than TRUNCATE, which makes files anew.
    const statements = ['SET session_replication_role = replica', ...tables.map(({ name }) => `DELETE FROM ${name}`)];
    await postgres.query(statements.join('; '), url);
  };

  storeConformance(
    'PostgreSQL',
    async (path, now) => {
      if (isFresh) await empty();
      isFresh = false;
      return openPostgresStore({ url: path, now });
    },
    () => {
      isFresh = true;
      return { path: url, [Symbol.dispose]: () => undefined };
    },
  );
});
