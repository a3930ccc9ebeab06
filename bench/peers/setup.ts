/** Makes this machine able to run the peers: their npm packages beside this file, and Debian's Redis and PostgreSQL. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { postgresPrograms } from './postgres.ts';
import { REDIS_PROGRAM } from './redis.ts';

const run = promisify(execFile);
const HERE = import.meta.dirname;
/** What was installed is that of the lock file as it was then. */
const INSTALLED_LOCK = join(HERE, 'node_modules', '.cocore-lock.json');
/** Read by Debian's PostgreSQL when it is installed: it shall make and start no database. */
const NO_CLUSTER = '/etc/postgresql-common/createcluster.d/cocore-bench.conf';

export async function setUp(): Promise<void> {
  await installPackages();
  const missing = [
    ...(existsSync(REDIS_PROGRAM) ? [] : ['redis-tools']),
    ...((await postgresPrograms()) === null ? ['postgresql'] : []),
  ];
  if (missing.length > 0) await installDebian(missing);
}

async function installPackages(): Promise<void> {
  const lock = readFileSync(join(HERE, 'package-lock.json'), 'utf8');
  if (existsSync(INSTALLED_LOCK) && readFileSync(INSTALLED_LOCK, 'utf8') === lock) return;
  console.log('set-up: the peers’ packages, from bench/peers/package-lock.json');
  const npm = join(HERE, '..', '..', 'node_modules', 'npm', 'bin', 'npm-cli.js');
  await run(process.execPath, [npm, 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: HERE });
  await writeFile(INSTALLED_LOCK, lock);
}

async function installDebian(names: readonly string[]): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error(`install these Debian packages as root: ${names.join(' ')}`);
  console.log(`set-up: ${names.join(' ')}, from Debian`);
  const isOurs = !existsSync(NO_CLUSTER);
  await mkdir(dirname(NO_CLUSTER), { recursive: true });
  if (isOurs) await writeFile(NO_CLUSTER, 'create_main_cluster = false\n');
  try {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    await run('apt-get', ['update', '-q'], { env });
    await run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...names], { env });
  } finally {
    if (isOurs) await rm(NO_CLUSTER);
  }
}
