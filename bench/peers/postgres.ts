/** A PostgreSQL of Debian's, as `initdb` sets it up, for the time of one measurement. */
import { execFile } from 'node:child_process';
import { chown, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Services } from './peer.ts';
import { freePort, Program } from './service.ts';

const VERSIONS = '/usr/lib/postgresql';
/** PostgreSQL refuses to run as root. */
const NOBODY = 65_534;
const ENOUGH_CONNECTIONS = 200;

/** Where the newest one's programs are; null when there is none. */
export async function postgresPrograms(): Promise<string | null> {
  const versions = await readdir(VERSIONS).catch(() => []);
  const newest = versions.map(Number).sort((one, other) => other - one)[0];
  return newest === undefined ? null : join(VERSIONS, String(newest), 'bin');
}

export async function startPostgres(directory: string): Promise<Services> {
  const programs = await postgresPrograms();
  if (programs === null) throw new Error(`there is no PostgreSQL in ${VERSIONS}`);
  const isRoot = process.getuid?.() === 0;
  const user = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
  const data = join(directory, 'postgres');
  await mkdir(data, { mode: 0o700 });
  if (isRoot) {
    await chown(data, NOBODY, NOBODY);
    await chown(directory, NOBODY, NOBODY);
  }
  const options = { ...user, cwd: data, env: { ...process.env, LC_ALL: 'C.UTF-8' } };
  const initdb = ['--pgdata', data, '--username', 'bench', '--auth', 'trust', '--no-instructions'];
  await promisify(execFile)(join(programs, 'initdb'), initdb, options);
  const port = await freePort();
  const settings = {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: directory,
    max_connections: ENOUGH_CONNECTIONS,
  };
  const program = new Program(
    join(programs, 'postgres'),
    ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    { ...options, stopSignal: 'SIGINT' },
  );
  await program.prints(/ready to accept connections/);
  const url = `postgres://bench@127.0.0.1:${port}/postgres`;
  return { place: { url }, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

/** Connections of one process. */
export const POOL_SIZE = 20;
