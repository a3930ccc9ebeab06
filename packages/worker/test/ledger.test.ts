import { CocoreError } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { leaseOf } from '../src/capacity/lease.ts';
import { CapacityLedger } from '../src/capacity/ledger.ts';

const LEASE = { cpus: 4, memoryMiB: 1000, diskMiB: 100 };
const ONE = { cpus: 1, memoryMiB: 300, diskMiB: 10 };

test('shares that fit together, they are admitted; the first that does not is refused whole', () => {
  const ledger = new CapacityLedger(LEASE);
  for (const holder of ['a', 'b', 'c']) assert.ok(ledger.admit(holder, ONE));
  assert.ok(!ledger.admit('d', ONE), 'memory is full');
  assert.deepEqual(ledger.used(), { cpus: 3, memoryMiB: 900, diskMiB: 30 });
});

test('each dimension that is full, it refuses by itself', () => {
  for (const [key, amount] of Object.entries(LEASE)) {
    const ledger = new CapacityLedger(LEASE);
    const none = { cpus: 0, memoryMiB: 0, diskMiB: 0 };
    assert.ok(ledger.admit('exactly', { ...none, [key]: amount }));
    assert.ok(!ledger.admit('more', { ...none, [key]: 1 }), key);
  }
});

test('a share given back, it can be taken again; giving back twice gives nothing more', () => {
  const ledger = new CapacityLedger({ ...LEASE, cpus: 1 });
  assert.ok(ledger.admit('a', ONE));
  assert.ok(!ledger.admit('b', ONE));
  ledger.release('a');
  ledger.release('a');
  assert.ok(ledger.admit('b', ONE));
  assert.ok(!ledger.admit('c', ONE));
});

test('a holder that has a share, it is not admitted twice', () => {
  const ledger = new CapacityLedger(LEASE);
  assert.ok(ledger.admit('a', ONE));
  assert.ok(!ledger.admit('a', ONE));
  assert.equal(ledger.used().cpus, 1);
});

const HOST = {
  total: { cpus: 8, memoryMiB: 16_000, diskMiB: 1000 },
  free: { cpus: 8, memoryMiB: 9_001, diskMiB: 500 },
};

test('nothing asked, half of what is free is leased', () => {
  assert.deepEqual(leaseOf({}, HOST), { cpus: 4, memoryMiB: 4500, diskMiB: 250 });
});

test('an owner’s wish, it is leased up to what the host has', () => {
  assert.deepEqual(leaseOf({ cpus: 8, memoryMiB: 16_000, diskMiB: 1 }, HOST), {
    cpus: 8,
    memoryMiB: 16_000,
    diskMiB: 1,
  });
});

test('a wish beyond the host, it is refused and the flag is named', () => {
  assert.throws(
    () => leaseOf({ cpus: 9 }, HOST),
    (error) => error instanceof CocoreError && error.code === 'limit_exceeded' && error.message.includes('--cpus 9'),
  );
});
