import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WebSocket } from 'ws';
import { networkOf, UnprovenConnections } from '../src/gateway/unproven.ts';

test('addresses of IPv6, those of one /64 are one network; addresses of IPv4 are each their own', () => {
  assert.equal(networkOf('2001:db8:0:1::7'), networkOf('2001:db8:0:1:ffff:0:0:9'));
  assert.notEqual(networkOf('2001:db8:0:1::7'), networkOf('2001:db8:0:2::7'));
  assert.equal(networkOf('fe80::1'), 'fe80:0:0:0::/64');
  assert.equal(networkOf('::1'), '0:0:0:0::/64');
  for (const address of ['127.0.0.1', '::ffff:10.0.0.1']) assert.equal(networkOf(address), address);
});

test('all places taken, a new one takes that of the oldest of the network that has the most', () => {
  const ended: string[] = [];
  const socket = (name: string) => ({ terminate: () => ended.push(name) }) as unknown as WebSocket;
  const unproven = new UnprovenConnections(3);
  unproven.add(socket('lone'), '10.0.0.1');
  unproven.add(socket('first'), '10.0.0.2');
  const second = unproven.add(socket('second'), '10.0.0.2');
  unproven.add(socket('other'), '10.0.0.3');
  assert.deepEqual(ended, ['first']);
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  unproven.add(socket('fourth'), '10.0.0.4');
  assert.deepEqual(ended, ['first']);
});
