import { TestPostgres } from '../../../packages/control/test/support/postgres.ts';
import type { Environment } from './command.ts';

export interface TestDatabase extends AsyncDisposable {
  /** What a control server needs in its environment. */
  readonly env: Environment;
}

/** Where the control servers of the suite keep records: in PostgreSQL where `COCORE_TEST_STORE` says so, one server of it for each; else in their data directory. */
export async function testDatabase(): Promise<TestDatabase> {
  if (process.env['COCORE_TEST_STORE'] !== 'postgres')
    return { env: {}, [Symbol.asyncDispose]: () => Promise.resolve() };
  const postgres = await TestPostgres.start();
  return { env: { COCORE_DATABASE_URL: postgres.url() }, [Symbol.asyncDispose]: () => postgres[Symbol.asyncDispose]() };
}
