import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';

const PACKAGES = '/usr/lib/postgresql';
/** PostgreSQL does not run as root. */
const NOBODY = process.geteuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
const START_MS = 60_000;

const SETTINGS = [
  'listen_addresses=127.0.0.1',
  'max_connections=60',
  'shared_buffers=32MB',
  // The tests kill processes, never the machine: the kernel keeps what was written.
  'fsync=off',
  'full_page_writes=off',
  'autovacuum_naptime=5s',
];

function newestVersion(): string | undefined {
  const versions = existsSync(PACKAGES) ? readdirSync(PACKAGES) : [];
  return versions
    .filter((one) => Number(one) >= 15)
    .sort((one, other) => Number(one) - Number(other))
    .at(-1);
}

/** Why no PostgreSQL can be tested with here; false where one can. Ubuntu 22.04 has 14. */
export const postgresSkip: string | false =
  newestVersion() === undefined ? 'this system has no PostgreSQL from 15 on' : false;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A PostgreSQL server of the test's own, in a directory of its own, gone with it. */
export class TestPostgres implements AsyncDisposable {
  readonly #directory: string;
  readonly #binaries: string;
  readonly #port: number;
  #process: ChildProcess | null = null;
  #databases = 0;

  private constructor(directory: string, binaries: string, port: number) {
    this.#directory = directory;
    this.#binaries = binaries;
    this.#port = port;
  }

  /** @param encoding of its databases */
  static async start(encoding = 'UTF8'): Promise<TestPostgres> {
    const directory = mkdtempSync(join(tmpdir(), 'cocore-postgres-'));
    const postgres = new TestPostgres(directory, join(PACKAGES, newestVersion()!, 'bin'), await freePort());
    try {
      if (NOBODY.uid !== undefined) chownSync(directory, NOBODY.uid, NOBODY.gid);
      writeFileSync(join(directory, 'password'), 'secret\n', { mode: 0o644 });
      const options = ['-U', 'postgres', '-A', 'scram-sha-256', '--pwfile', join(directory, 'password')];
      await promisify(execFile)(
        join(postgres.#binaries, 'initdb'),
        ['-D', join(directory, 'data'), '-E', encoding, '--locale=C', '--no-sync', ...options],
        { cwd: directory, ...NOBODY },
      );
      await postgres.run();
    } catch (error) {
      await postgres[Symbol.asyncDispose]();
      throw error;
    }
    return postgres;
  }

  /** The address of a database. */
  url(database = 'postgres', password = 'secret'): string {
    return `postgres://postgres:${password}@127.0.0.1:${this.#port}/${database}`;
  }

  /** Makes a database. @returns its address */
  async create(): Promise<string> {
    this.#databases += 1;
    const name = `test_${this.#databases}`;
    await this.query(`CREATE DATABASE ${name}`);
    return this.url(name);
  }

  /** Without parameters, by a connection of its own. */
  async query<Row extends object>(sql: string, url = this.url()): Promise<Row[]> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      return (await client.query<Row>(sql)).rows;
    } finally {
      await client.end();
    }
  }

  /** Starts it, after it was stopped, and waits until it answers. */
  async run(): Promise<void> {
    const settings = SETTINGS.flatMap((setting) => ['-c', setting]);
    const args = ['-D', join(this.#directory, 'data'), '-p', String(this.#port), '-k', '', ...settings];
    const child = spawn(join(this.#binaries, 'postgres'), args, { cwd: this.#directory, stdio: 'ignore', ...NOBODY });
    this.#process = child;
    const until = Date.now() + START_MS;
    for (;;) {
      if (child.exitCode !== null) throw new Error(`postgres ended with ${child.exitCode}`);
      try {
        await this.query('SELECT 1');
        return;
      } catch (error) {
        if (Date.now() > until) throw error;
        await sleep(50);
      }
    }
  }

  /** `SIGINT` ends connections and shuts down; `SIGQUIT` leaves all as it is, as a crash does. */
  async stop(signal: 'SIGINT' | 'SIGQUIT' = 'SIGINT'): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGQUIT');
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
