import { CocoreError } from '@cocore/protocol';
import { setFlagsFromString } from 'node:v8';
import { pino } from 'pino';
import { parseCommand } from './config.ts';
import { CONFIGURATION_ERRORS, startDaemon } from './daemon.ts';
import { probeHost } from './probe.ts';

// Without it, buffers outside the heap have all of it collected for each few megabytes that are sent or received, which costs more than all else about them.
setFlagsFromString('--external-memory-accounted-in-global-limit');

/** Says why it cannot go on, and what to do: two lines on standard error. */
function fail(error: unknown): void {
  const known = error instanceof CocoreError ? error : new CocoreError('internal', String(error), { cause: error });
  process.stderr.write(`error ${known.code}: ${known.message}\n${known.remedy}\n`);
  process.exitCode = CONFIGURATION_ERRORS.has(known.code) ? 2 : 1;
}

/** Resolves at the first of the signals. Later ones change nothing: what they ask for is under way. */
function signalled(...signals: readonly NodeJS.Signals[]): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of signals) process.on(signal, () => resolve());
  });
}

async function main(): Promise<void> {
  const stop = signalled('SIGTERM', 'SIGINT');
  // Not SIGUSR1: until somebody listens to it, Node opens a debugger's port.
  const drain = signalled('SIGUSR2');
  const { env, argv } = process;
  const command = parseCommand(argv.slice(2), env);
  if (command.verb === 'probe') {
    process.stdout.write(`${JSON.stringify(await probeHost(command.config))}\n`);
    return;
  }
  const log = pino({ level: env['COCORE_LOG_LEVEL'] ?? 'info', base: null }, pino.destination({ fd: 2, sync: true }));
  await using daemon = await startDaemon(command.config, log);
  const ready = daemon.ready.then((workerId) => process.stdout.write(`ready ${workerId}\n`));
  const drained = drain.then(() => {
    log.info('worker drains: it takes nothing more, and stops when what it has is finished');
    return daemon.drain();
  });
  await Promise.race([stop, drained, Promise.all([ready, daemon.ended])]);
  log.info('worker stops');
}

try {
  await main();
} catch (error) {
  fail(error);
}
