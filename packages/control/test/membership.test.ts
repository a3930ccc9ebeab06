import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { pino } from 'pino';
import { BEAT_MS, GONE_MS, Membership } from '../src/servers/membership.ts';
import { heardOf, News } from '../src/servers/news.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import type { Store } from '../src/store/store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { temporaryDirectory } from './support/temporary.ts';

const log = pino({ level: 'silent' });

/** Servers as the store knows them; their database fails when it is told to. */
async function fixture(scope: AsyncDisposableStack) {
  const { path } = scope.use(temporaryDirectory());
  const clock = new ManualClock();
  const real = scope.adopt(await openSqliteStore({ path: join(path, 'db'), now: clock.nowMs }), (one) => one.close());
  let fails = false;
  const failing = <T>(work: () => Promise<T>) => (fails ? Promise.reject(new Error('no database')) : work());
  const store: Store = {
    ...real,
    beatServer: (facts) => failing(() => real.beatServer(facts)),
    listServers: () => failing(() => real.listServers()),
  };
  const facts = (serverId: string) => ({ serverId, directoryId: `of ${serverId}`, blobs: 'one place' });
  const join_ = (serverId: string) => Membership.join({ store, facts: facts(serverId), clock, log });
  return { clock, store, facts, join: join_, fail: (does: boolean) => (fails = does) };
}

test('a server whose beat changes no more, it is gone after its time, and not before', async () => {
  await using scope = new AsyncDisposableStack();
  const { clock, join } = await fixture(scope);
  const [one, two] = [await join('one'), await join('two')];
  assert.deepEqual(await one.look(), { gone: [], hasChanged: true });
  assert.ok(one.isOther('two') && !one.isOther('one') && !one.isOther(null));
  const after = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += BEAT_MS) {
      clock.advance(BEAT_MS);
      const { gone } = await one.look();
      if (gone.length > 0) return gone.map(({ serverId }) => serverId);
    }
    return [];
  };
  assert.deepEqual(await after(GONE_MS - BEAT_MS), []);
  await two.look();
  assert.deepEqual(await after(GONE_MS - BEAT_MS), []);
  assert.deepEqual(await after(2 * BEAT_MS), ['two']);
  assert.equal(one.hasOthers, false);
});

test('a database that is away, or a server that stands still, nobody is gone for that', async () => {
  await using scope = new AsyncDisposableStack();
  const { clock, join, fail } = await fixture(scope);
  const one = await join('one');
  await join('two');
  await one.look();
  fail(true);
  clock.advance(10 * GONE_MS);
  await assert.rejects(one.look());
  fail(false);
  assert.deepEqual(await one.look(), { gone: [], hasChanged: false });
  // Its own pause.
  clock.advance(10 * GONE_MS);
  assert.deepEqual(await one.look(), { gone: [], hasChanged: false });
});

test('a server that was removed while it lived, it is there again with its next beat; one that left is not', async () => {
  await using scope = new AsyncDisposableStack();
  const { store, join } = await fixture(scope);
  const [one, two] = [await join('one'), await join('two')];
  await one.look();
  const [, { beat }] = (await store.listServers()) as [unknown, { beat: number }];
  assert.deepEqual(await store.claimWorkers('one', [{ serverId: 'two', beat: beat + 1 }]), []);
  assert.equal((await store.listServers()).length, 2);
  await store.claimWorkers('one', [{ serverId: 'two', beat }]);
  assert.equal((await store.listServers()).length, 1);
  await two.look();
  assert.equal((await store.listServers()).length, 2);
  await two[Symbol.asyncDispose]();
  assert.deepEqual(await one.look(), { gone: [], hasChanged: true });
});

test('news, they are told once, in pieces that the database takes, and only to others', async () => {
  const sent: string[] = [];
  let hasOthers = true;
  let fails = true;
  const news = new News({
    serverId: 'one',
    hasOthers: () => hasOthers,
    send: (payloads) => {
      if (fails) return Promise.reject(new Error('no connection'));
      sent.push(...payloads);
      return Promise.resolve();
    },
    log,
  });
  const ids = Array.from({ length: 1_000 }, (_, index) => `ex_${String(index).padStart(26, '0')}`);
  for (const id of [...ids, ...ids]) news.tell(['output', id]);
  assert.equal(await news.flush(), false);
  fails = false;
  assert.equal(await news.flush(), true);
  assert.ok(sent.length > 1 && sent.every((payload) => Buffer.byteLength(payload) < 8_000));
  assert.deepEqual(
    sent.flatMap((payload) => heardOf(payload, 'two')),
    ids.map((id) => ['output', id]),
  );
  assert.deepEqual(heardOf(sent[0]!, 'one'), []);
  assert.deepEqual([heardOf('no JSON', 'two'), heardOf('{}', 'two')], [[], []]);
  hasOthers = false;
  news.tell(['output', 'ex_1']);
  assert.equal(await news.flush(), true);
  assert.equal(sent.flatMap((payload) => heardOf(payload, 'two')).length, ids.length);
});
