import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { Command } from 'commander';
import { type QueueOptions, queueingOf, withQueueing } from '../src/queueing.ts';

const parsed = (...args: string[]): QueueOptions =>
  withQueueing(new Command().exitOverride().configureOutput({ writeErr: () => undefined }))
    .parse(args, { from: 'user' })
    .opts<QueueOptions>();

test('how an execution waits, it is what the options say, and nothing when nothing was said', () => {
  const options = parsed(
    ...['--priority', '-3', '--concurrency-key', 'user-1', '--concurrency-limit', '2', '--queue-ttl', '10m'],
  );
  assert.deepEqual(queueingOf(options), {
    priority: -3,
    concurrencyKey: 'user-1',
    concurrencyLimit: 2,
    queueTtlMs: 600_000,
  });
  assert.deepEqual(queueingOf(parsed()), {});
});

test('options that cannot be, they are refused', () => {
  for (const text of ['11', '-11', '1.5', 'high', ''])
    assert.throws(() => parsed('--priority', text), /from -10 to 10/);
  assert.throws(
    () => queueingOf(parsed('--concurrency-limit', '2')),
    (error: unknown) => error instanceof CocoreError && error.code === 'usage',
  );
});
