import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ExecutionRecord } from '@cocore/protocol';
import { EventHub } from '../src/events.ts';
import { AwaitedEnd } from '../src/http/awaited-end.ts';

const record = (state: 'running' | 'success') => ({ id: 'ex_1', state }) as ExecutionRecord;
const NEVER = new AbortController().signal;
const unread = () => assert.fail('it is not read');

describe('whoever waits for an end', () => {
  test('has the record that came with it, also before it waits', async () => {
    const hub = new EventHub();
    using early = new AwaitedEnd(hub, 'ex_1', unread);
    using late = new AwaitedEnd(hub, 'ex_1', unread);
    const waiting = early.within(60_000, NEVER);
    hub.publish('ex_1', 'changed');
    hub.publish('ex_2', 'ended', record('success'));
    hub.publish('ex_1', 'ended', record('success'));
    assert.deepEqual(await waiting, record('success'));
    assert.deepEqual(await late.within(60_000, NEVER), record('success'));
  });

  test('reads it where it came without, where time is over, and where nobody listens any more', async () => {
    const hub = new EventHub();
    using end = new AwaitedEnd(hub, 'ex_1', unread);
    assert.equal(await end.within(1, NEVER), null);
    assert.equal(await end.within(60_000, AbortSignal.abort()), null);
    hub.publish('ex_1', 'ended');
    assert.equal(await end.within(60_000, NEVER), null);
  });

  test('looks for it where another server may have told of it, until it is there', async () => {
    const hub = new EventHub();
    const states = ['running', 'success'] as const;
    let reads = 0;
    using end = new AwaitedEnd(hub, 'ex_1', async () => record(states[reads++]!));
    const waiting = end.within(60_000, NEVER);
    hub.hear('ex_1', 'maybe');
    await new Promise(setImmediate);
    hub.hear('ex_1', 'maybe');
    assert.deepEqual(await waiting, record('success'));
    assert.equal(reads, 2);
  });

  test('is known to wait until it is let go', () => {
    const hub = new EventHub();
    using _follower = hub.subscribe('ex_1', () => undefined);
    assert.equal(hub.isAwaited('ex_1'), false);
    {
      using _end = new AwaitedEnd(hub, 'ex_1', unread);
      assert.equal(hub.isAwaited('ex_1'), true);
    }
    assert.equal(hub.isAwaited('ex_1'), false);
  });
});
