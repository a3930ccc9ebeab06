import { CocoreError, type ExecutionCreateInput, MAX_PRIORITY, MIN_PRIORITY } from '@cocore/protocol';
import { type Command, InvalidArgumentError } from 'commander';
import { durationMs, wholeNumber } from './units.ts';

/** What a command was told of how its execution waits. */
export interface QueueOptions {
  readonly priority?: number;
  readonly concurrencyKey?: string;
  readonly concurrencyLimit?: number;
  readonly queueTtl?: number;
}

function priority(text: string): number {
  const value = Number(text);
  if (/^-?\d{1,3}$/.test(text) && value >= MIN_PRIORITY && value <= MAX_PRIORITY) return value;
  throw new InvalidArgumentError(`Give a whole number from ${MIN_PRIORITY} to ${MAX_PRIORITY}.`);
}

export const withQueueing = (command: Command): Command =>
  command
    .option(
      '--priority <n>',
      `from ${MIN_PRIORITY} to ${MAX_PRIORITY}: of the project’s that wait, the higher goes first; 0`,
      priority,
    )
    .option('--concurrency-key <key>', 'what must not run at once: it waits while another with this key runs')
    .option('--concurrency-limit <n>', 'how many with this key may run at once; 1', wholeNumber)
    .option('--queue-ttl <duration>', 'how long it may wait for a worker, such as 10m; 24h', durationMs);

/** What was given. @throws CocoreError `usage` */
export function queueingOf(
  options: QueueOptions,
): Pick<ExecutionCreateInput, 'priority' | 'concurrencyKey' | 'concurrencyLimit' | 'queueTtlMs'> {
  const { priority, concurrencyKey, concurrencyLimit, queueTtl } = options;
  if (concurrencyLimit !== undefined && concurrencyKey === undefined) {
    throw new CocoreError('usage', '--concurrency-limit says more of --concurrency-key, which is not given');
  }
  return {
    ...(priority === undefined ? {} : { priority }),
    ...(concurrencyKey === undefined ? {} : { concurrencyKey }),
    ...(concurrencyLimit === undefined ? {} : { concurrencyLimit }),
    ...(queueTtl === undefined ? {} : { queueTtlMs: queueTtl }),
  };
}
