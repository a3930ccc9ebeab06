import { CocoreError } from '@cocore/protocol';
import { destination, pino } from 'pino';
import { type Config, readConfig } from './config.ts';
import { startServer } from './server.ts';

/** The control server as a process: `ready URL` on standard output once it serves, logs on standard error. */
async function main(): Promise<void> {
  const stop = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
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
