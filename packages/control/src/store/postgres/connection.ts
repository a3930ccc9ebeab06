import { CocoreError } from '@cocore/protocol';
import type pg from 'pg';
import { Copy } from './copy.ts';
import { isLost, LostConnection } from './errors.ts';
import { type Answer, type Asked, Prepared, Round } from './round.ts';

/** How long the database may take to be connected to, and to answer. */
const CONNECT_MS = 5_000;
const ANSWER_MS = 60_000;

/** The first version that has all that the statements need and that is still kept. */
const MIN_VERSION = 150_000;

/**
 * Every statement is a walk along an index, whatever the tables' statistics say: those of an empty database, which a plan is made from, are wrong within a
 * second. A connection keeps its plans, and throws them away from time to time.
 */
const SETTINGS = [
  "SET client_encoding = 'UTF8'",
  'SET bytea_output = hex',
  'SET default_transaction_isolation = "read committed"',
  'SET plan_cache_mode = force_generic_plan',
  'SET enable_seqscan = off',
  'SET enable_bitmapscan = off',
  'SET enable_hashjoin = off',
  'SET enable_mergejoin = off',
  // In the order in which they are written, which is from the one row that is known to those that it names.
  'SET join_collapse_limit = 1',
  'SET jit = off',
  "SET statement_timeout = '50s'",
  "SET idle_in_transaction_session_timeout = '60s'",
  // An answer means durable, whatever the database's default is; what is stronger stays.
  `SELECT set_config('synchronous_commit', 'on', false) FROM pg_settings WHERE name = 'synchronous_commit' AND setting NOT IN ('on', 'remote_apply')`,
].join('; ');

/**
 * Plans are made anew after so many transactions, after twice as many, and so on. A plan that was made while a table was small takes any of the indexes
 * that fit; which of them is the narrow one shows as the table grows, and the database itself looks at that only once a minute.
 */
const FIRST_PLANS_OF = 64;

interface ServerFacts {
  readonly version: number;
  readonly encoding: string;
  /** Settings of the server that let it lose what it has acknowledged. */
  readonly unsafe: readonly string[];
}

/** One connection to PostgreSQL, set up for the store. It ends at the first failure that is not a statement's. */
export class Connection {
  readonly #client: pg.Client;
  readonly #prepared = new Prepared();
  #transactions = 0;
  #plansOf = FIRST_PLANS_OF;
  #isLost = false;

  private constructor(client: pg.Client) {
    this.#client = client;
    client.on('error', () => this.drop());
    client.on('end', () => {
      this.#isLost = true;
    });
  }

  /** @throws what `pg` throws */
  static async open(url: string): Promise<Connection> {
    const { Client } = (await import('pg')).default;
    const client = new Client({
      connectionString: url,
      application_name: 'cocore',
      connectionTimeoutMillis: CONNECT_MS,
      keepAlive: true,
    });
    const connection = new Connection(client);
    try {
      await client.connect();
      await client.query(SETTINGS);
    } catch (error) {
      connection.drop();
      throw error;
    }
    return connection;
  }

  get isLost(): boolean {
    return this.#isLost;
  }

  /** To be called before each transaction. */
  async renewPlans(): Promise<void> {
    this.#transactions += 1;
    if (this.#transactions < this.#plansOf) return;
    this.#plansOf *= 2;
    await this.round([{ sql: 'DISCARD PLANS', parameters: [] }]);
  }

  /** Sends them together, and waits for all of their answers. @throws what the first failed with */
  async round(asked: readonly Asked[]): Promise<Answer[]> {
    const round = new Round(asked, this.#prepared);
    return this.#submit(round, round.answers);
  }

  /** Adds rows to a table. @param rows of `CopyRows` */
  async copy(sql: string, rows: Buffer): Promise<void> {
    const copy = new Copy(sql, rows);
    await this.#submit(copy, copy.done);
  }

  /** Several statements without parameters, as a migration is. */
  async execute(sql: string): Promise<void> {
    await this.#client.query(sql);
  }

  async facts(): Promise<ServerFacts> {
    const { rows } = await this.#client.query<{ name: string; setting: string }>(
      `SELECT name, setting FROM pg_settings WHERE name IN ('server_version_num', 'server_encoding', 'fsync', 'full_page_writes')`,
    );
    const of = (name: string) => rows.find((row) => row.name === name)?.setting ?? '';
    return {
      version: Number(of('server_version_num')),
      encoding: of('server_encoding'),
      unsafe: ['fsync', 'full_page_writes'].filter((name) => of(name) === 'off'),
    };
  }

  /** @throws CocoreError `database_unfit` */
  async check(): Promise<ServerFacts> {
    const facts = await this.facts();
    if (facts.version < MIN_VERSION) {
      throw new CocoreError(
        'database_unfit',
        `the database is PostgreSQL ${Math.floor(facts.version / 10_000)}; 15 or newer is needed`,
      );
    }
    if (facts.encoding !== 'UTF8') {
      throw new CocoreError(
        'database_unfit',
        `the database keeps text as ${facts.encoding}; it must be made with ENCODING 'UTF8'`,
      );
    }
    return facts;
  }

  async #submit<T>(query: Round | Copy, answer: Promise<T>): Promise<T> {
    if (this.#isLost) throw new LostConnection('the connection to the database is lost');
    const timer = setTimeout(() => this.drop(), ANSWER_MS);
    try {
      this.#client.query(query as unknown as pg.Submittable);
      return await answer;
    } catch (error) {
      if (isLost(error)) this.drop();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends it without a word. */
  drop(): void {
    this.#isLost = true;
    const { connection } = this.#client as unknown as { connection: { stream: { destroy(): void } } };
    connection.stream.destroy();
  }

  async close(): Promise<void> {
    if (this.#isLost) return;
    this.#isLost = true;
    await this.#client.end();
  }
}
