import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { Command, type CommanderError } from 'commander';
import { retriesOf, type RetryOptions, withRetries } from '../src/retries.ts';

const parsed = (...args: string[]): RetryOptions =>
  withRetries(new Command().exitOverride().configureOutput({ writeErr: () => undefined }))
    .parse(args, { from: 'user' })
    .opts<RetryOptions>();

test('retries, they are what the options say, none for 0, and nothing when nothing was said', () => {
  const options = parsed('--retries', '3', '--retry-on', 'oom,exit_code', '--retry-backoff', '2s');
  assert.deepEqual(retriesOf(options), { max: 3, on: ['oom', 'exit_code'], backoffMs: 2000 });
  assert.deepEqual(retriesOf(parsed('--retries', '1')), { max: 1, backoffMs: 1000 });
  assert.equal(retriesOf(parsed('--retries', '0')), null);
  assert.equal(retriesOf(parsed()), undefined);
});

test('retries that cannot be, they are refused with what could', () => {
  const isUsage = (error: unknown) => error instanceof CocoreError && error.code === 'usage';
  assert.throws(() => retriesOf(parsed('--retries', '99')), isUsage);
  assert.throws(() => retriesOf(parsed('--retry-on', 'oom')), isUsage);
  assert.throws(
    () => parsed('--retry-on', 'user_cancel'),
    (error: CommanderError) => /no reason user_cancel; there are .*exit_code/.test(error.message),
  );
});
