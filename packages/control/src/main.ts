import { once } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { CocoreError } from '@cocore/protocol';
import { destination, pino } from 'pino';
import { type Config, readConfig } from './config.ts';
import { startServer } from './server.ts';
import { migrateStoreCommand } from './store/move/command.ts';

// Without it, buffers outside the heap have all of it collected for each few megabytes that are sent or received, which costs more than all else about them.
setFlagsFromString('--external-memory-accounted-in-global-limit');

/** The control server as a process: `ready URL` on standard output once it serves, logs on standard error. With `migrate-store` first, it moves its store instead. */
async function main(): Promise<void> {
  const stopping = new AbortController();
  const stop = once(stopping.signal, 'abort');
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stopping.abort());
  const [verb, ...rest] = process.argv.slice(2);
  if (verb === 'migrate-store') {
    process.exitCode = await migrateStoreCommand(rest, process.env, stopping.signal);
    return;
  }
  const config: Config = readConfig(process.argv.slice(2), process.env);
  const log = pino({ name: 'control', level: config.logLevel }, destination({ fd: 2, sync: true }));
  await using server = await startServer({ ...config, log });
  process.stdout.write(`ready ${server.url}\n`);
  await stop;
  log.info('the server stops');
}

const USAGE_CODES = new Set(['usage', 'insecure_refused', 'artifact_missing', 'file_unreadable']);

try {
  await main();
} catch (error) {
  const known = error instanceof CocoreError ? error : new CocoreError('internal', String(error), { cause: error });
  process.stderr.write(`error ${known.code}: ${known.message}\n${known.remedy}\n`);
  process.exitCode = USAGE_CODES.has(known.code) ? 2 : 1;
}
