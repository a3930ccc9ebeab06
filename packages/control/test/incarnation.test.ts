import assert from 'node:assert/strict';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { DataDir } from '../src/data-dir.ts';
import { Incarnation } from '../src/incarnation.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { executing } from './support/pass.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

test('a data directory that is put back, what came after the copy is nobody’s: it is taken back, nothing hangs, and work goes on', async () => {
  await using server = await TestServer.start();
  const [data, backup] = ['data', 'backup'].map((name) => join(server.directory.path, name)) as [string, string];
  await server.deploy('f');
  const known = new Identity();
  const first = await ScriptedWorker.connect(server, { identity: known, joinToken: await server.joinToken() });
  const { incarnation } = first.welcome;
  assert.equal(incarnation, server.server.incarnation);
  await server.run('f');
  const before = await first.startNext();
  await executing(server, before.executionId);
  await server.restart(() => cpSync(data, backup, { recursive: true }));

  // Since the copy: what ran then has ended, something else runs, and another worker has joined.
  const second = await ScriptedWorker.connect(server, { identity: known, inventory: [before.attemptId] });
  assert.equal(second.welcome.incarnation, incarnation);
  second.end(before);
  await second.next('AttemptEndedAck');
  const { id } = await server.run('f');
  const after = await second.startNext();
  await executing(server, id);
  await using newcomer = await ScriptedWorker.connect(server);

  const putBack = () => {
    rmSync(data, { recursive: true });
    cpSync(backup, data, { recursive: true });
  };
  await server.restart(putBack, { restored: true });
  await using third = await ScriptedWorker.connect(server, { identity: known, inventory: [after.attemptId] });
  const { welcome } = third;
  assert.notEqual(welcome.incarnation, incarnation);
  assert.deepEqual([welcome.resume, welcome.revoke], [[], [after.attemptId]]);
  assert.equal((await server.call('GET', `/v1/executions/${id}`)).body.code, 'execution_not_found');
  // What ran at the copy is not at its worker any more, and runs again.
  const again = await third.startNext();
  assert.equal(again.executionId, before.executionId);
  third.end(again);
  assert.equal((await server.execution(before.executionId, '10s')).state, 'success');

  const { identity } = newcomer;
  const unknown = await ScriptedWorker.dial(server, { identity });
  assert.equal((await unknown.next('ServerRefusal')).code, 'worker_unknown');
  await unknown[Symbol.asyncDispose]();
  await using back = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  assert.ok(back.welcome.workerId);
});

describe('the incarnation of a store', () => {
  const log = pino({ level: 'silent' });

  /** One life of a server. */
  async function life(
    path: string,
    restored = false,
    work: (one: Incarnation) => Promise<void> = async () => undefined,
  ) {
    using dataDir = DataDir.open(path);
    const store = await openSqliteStore({ path: dataDir.file('cocore.db') });
    const incarnation = await Incarnation.open({ dataDir, store, server: null, log }, restored);
    await work(incarnation);
    await store.close();
    return incarnation.id;
  }

  test('life after life, it stays', async () => {
    using directory = temporaryDirectory();
    const first = await life(directory.path, false, (one) => one.advance());
    for (let at = 0; at < 3; at += 1) assert.equal(await life(directory.path), first);
  });

  test('said to be restored, it is another one, which stays', async () => {
    using directory = temporaryDirectory();
    const first = await life(directory.path);
    const second = await life(directory.path, true);
    assert.notEqual(second, first);
    assert.equal(await life(directory.path), second);
  });

  for (const [what, between] of [
    ['lives', async () => undefined],
    ['minutes', (one: Incarnation) => one.advance()],
  ] as const) {
    test(`only the database is put back, from some ${what} ago, it is another one`, async () => {
      using directory = temporaryDirectory();
      using copy = temporaryDirectory();
      const database = join(directory.path, 'cocore.db');
      const first = await life(directory.path);
      cpSync(database, join(copy.path, 'db'));
      if (what === 'lives') assert.equal(await life(directory.path), first);
      await life(directory.path, false, between);
      cpSync(join(copy.path, 'db'), database);
      const second = await life(directory.path);
      assert.notEqual(second, first);
      assert.equal(await life(directory.path), second);
    });
  }

  test('a server that ended between the two writings of a marker, and again, it stays', async () => {
    using directory = temporaryDirectory();
    const marker = join(directory.path, 'incarnation');
    const first = await life(directory.path);
    for (let at = 0; at < 2; at += 1) {
      const earlier = readFileSync(marker, 'utf8');
      assert.equal(await life(directory.path), first);
      // As if the file had not been written at the start.
      writeFileSync(marker, earlier);
    }
    assert.equal(await life(directory.path), first);
  });

  test('a marker that is lost, it is another one', async () => {
    using directory = temporaryDirectory();
    const first = await life(directory.path);
    rmSync(join(directory.path, 'incarnation'));
    assert.notEqual(await life(directory.path), first);
  });
});
