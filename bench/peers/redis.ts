/** A Redis of Debian's, for the time of one measurement. */
import { join } from 'node:path';
import type { Services } from './peer.ts';
import { Program } from './service.ts';

/** Debian's package of tools has the program, under the name of the checker that it also is, and starts no service. */
export const REDIS_PROGRAM = '/usr/bin/redis-check-rdb';

/** @param appendFsync when the append-only file is synced */
export async function startRedis(directory: string, appendFsync: 'always' | 'everysec'): Promise<Services> {
  const path = join(directory, 'redis.sock');
  const settings = {
    port: '0',
    unixsocket: path,
    dir: directory,
    save: '',
    appendonly: 'yes',
    appendfsync: appendFsync,
    'maxmemory-policy': 'noeviction',
  };
  const program = new Program(
    REDIS_PROGRAM,
    Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
    { argv0: 'redis-server', cwd: directory },
  );
  await program.prints(/eady to accept connections/);
  return { place: { path }, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}
