import { NO_NETWORK, ROOT_USER } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { signalNumber } from '../src/dispatch/stop-signal.ts';
import { taskSpec } from '../src/dispatch/task.ts';
import type { AssignedTask } from '../src/store/store.ts';

test('what an image may write as its stop signal, its number', () => {
  const numbers = ['SIGTERM', 'sigquit', 'INT', '9', 'SIGRTMIN', 'RTMIN+2', 'SIGRTMAX-1', 'SIGRTMAX'].map(signalNumber);
  assert.deepEqual(numbers, [15, 3, 2, 9, 34, 36, 63, 64]);
  for (const text of [
    '',
    '0',
    '65',
    '-1',
    '1.5',
    'SIGNONE',
    'SIG',
    'SIGRTMIN+31',
    'SIGRTMAX-99',
    'TERM;',
    'toString',
  ]) {
    assert.equal(signalNumber(text), undefined, text);
  }
});

test('a version with a stop signal of its own, the task names it; one without, or with what is none, names nothing', () => {
  const blob = { digest: `sha256:${'0'.repeat(64)}`, bytes: 1 };
  const stopSignalOf = (stopSignal: string | null) => {
    const task: AssignedTask = {
      executionId: 'ex_01m8515c5dec3ssmk0fssmppb1',
      functionName: 'f',
      functionVersion: 1,
      process: { argv: ['/f'], env: {}, cwd: '/', user: ROOT_USER, stopSignal },
      args: [],
      functionEnv: {},
      env: {},
      image: blob,
      code: blob,
      stdin: null,
      files: [],
      memoryMiB: 128,
      cpus: 1,
      timeoutMs: 1_000,
      outputLimitBytes: 1,
      artifactsLimitBytes: 0,
      network: NO_NETWORK,
    };
    return taskSpec(task).stopSignal;
  };
  assert.deepEqual([stopSignalOf('SIGQUIT'), stopSignalOf(null), stopSignalOf('SIGNONE')], [3, undefined, undefined]);
});
