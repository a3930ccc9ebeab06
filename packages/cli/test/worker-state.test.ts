import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WorkerRecord } from '@cocore/protocol';
import { workerLoad, workerState } from '../src/worker-state.ts';

const NOW_MS = Date.parse('2026-01-01T00:00:00Z');

const worker = (change: Partial<WorkerRecord>): WorkerRecord =>
  WorkerRecord.parse({
    id: 'wk_0123456789abcdefghjkmnpqrs',
    name: 'w',
    state: 'online',
    driver: 'qemu',
    isolation: 'microvm',
    cpus: 4,
    memoryMiB: 4096,
    diskMiB: 4096,
    usedCpus: 1,
    usedMemoryMiB: 256,
    attempts: 1,
    daemonVersion: '0.1.0',
    platform: 'linux-x64',
    joinedAt: '2026-01-01T00:00:00Z',
    connectedAt: null,
    lastBeatAt: null,
    ...change,
  });

test('a worker that gets less than it has room for, its state says why', () => {
  const state = (change: Partial<WorkerRecord>) => workerState(worker(change), NOW_MS);
  const drain = { by: 'operator', state: 'drained', since: '2026-01-01T00:00:00Z' } as const;
  const until = '2026-01-01T00:00:07.500Z';
  assert.equal(state({}), 'online');
  assert.equal(state({ state: 'offline', drain }), 'offline (drained)');
  assert.equal(state({ backoff: { until, failures: 4 } }), 'online (backed off for 8s)');
  assert.equal(state({ backoff: { until: null, failures: 4 } }), 'online (on trial)');
  assert.equal(state({ drain, backoff: { until, failures: 1 } }), 'online (drained, backed off for 8s)');
});

test('a worker that has not earned all of its room, how many it may have is beside how many it has', () => {
  assert.equal(workerLoad(worker({})), '1');
  assert.equal(workerLoad(worker({ allowance: 4 })), '1 of 4');
});
