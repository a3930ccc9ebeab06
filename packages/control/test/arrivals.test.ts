import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { breakStore } from './support/broken-store.ts';
import { type Message, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

/** A server and a worker; the function has run once, so that it is known where it may run. */
async function known(cpus = 8): Promise<{ server: TestServer; worker: ScriptedWorker } & AsyncDisposable> {
  await using scope = new AsyncDisposableStack();
  const server = scope.use(await TestServer.start());
  const worker = scope.use(await ScriptedWorker.connect(server, { capabilities: { cpus } }));
  await server.deploy('f');
  await server.run('f');
  end(worker, await worker.startNext());
  await worker.next('AttemptEndedAck');
  const owned = scope.move();
  return { server, worker, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const end = (worker: ScriptedWorker, assign: Message<'AttemptAssign'>) => worker.end(assign);
/** An attempt that waits is assigned so, and no other way. */
const ASSIGNING = ['UPDATE OF worker_id ON attempts'];
const IS_ASSIGNED = "NEW.state = 'assigned'";

describe('an execution of a function that has run before', () => {
  test('with room for it, it is made and assigned by one commit', async () => {
    await using scene = await known();
    const { server, worker } = scene;
    using _broken = breakStore(server, ASSIGNING, IS_ASSIGNED);
    const { id } = await server.run('f', { args: ['x'] });
    const assign = await worker.startNext();
    assert.deepEqual([assign.executionId, assign.task.argv.at(-1)], [id, 'x']);
    end(worker, assign);
    assert.equal((await server.execution(id, '10s')).state, 'success');
  });

  test('without room, it waits behind those that came before', async () => {
    await using scene = await known(1);
    const { server, worker } = scene;
    const ids: string[] = [];
    for (let index = 0; index < 4; index += 1) ids.push((await server.run('f')).id);
    for (const id of ids) {
      const assign = await worker.startNext();
      assert.equal(assign.executionId, id);
      end(worker, assign);
    }
  });

  test('what cannot be made takes no room', async () => {
    await using scene = await known(1);
    const { server, worker } = scene;
    const { id } = await server.run('f', { idempotencyKey: 'once' });
    end(worker, await worker.startNext());
    assert.equal((await server.execution(id, '10s')).state, 'success');
    assert.equal((await server.run('f', { idempotencyKey: 'once' })).id, id);
    await assert.rejects(server.run('f', { idempotencyKey: 'once', args: ['other'] }), /idempotency_conflict/);
    {
      using _broken = breakStore(server, ['INSERT ON executions']);
      await assert.rejects(server.run('f'));
    }
    const next = await server.run('f');
    assert.equal((await worker.startNext()).executionId, next.id);
  });

  test('deployed anew meanwhile, it is of the new version', async () => {
    await using scene = await known();
    const { server, worker } = scene;
    await server.deploy('f', { env: { NEW: '1' } });
    for (const _ of [1, 2]) {
      await server.run('f');
      assert.equal((await worker.startNext()).task.env['NEW'], '1');
    }
  });

  test('with standard input, it comes with it', async () => {
    await using scene = await known();
    const { server, worker } = scene;
    using _broken = breakStore(server, ASSIGNING, IS_ASSIGNED);
    await server.run('f', { stdin: { base64: 'AAE=' } });
    assert.deepEqual((await worker.startNext()).task.stdin, { base64: 'AAE=' });
  });

  test('first with large files, those without go as they would', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('f');
    const files = [{ name: 'large', base64: Buffer.alloc(250_000).toString('base64') }];
    await server.run('f', { files });
    end(worker, await worker.startNext());
    await worker.next('AttemptEndedAck');
    await server.run('f');
    end(worker, await worker.startNext());
    await worker.next('AttemptEndedAck');
    using _broken = breakStore(server, ASSIGNING, IS_ASSIGNED);
    const ids = (await Promise.all(Array.from({ length: 16 }, () => server.run('f')))).map(({ id }) => id);
    const given = await Promise.all(ids.map(() => worker.next('AttemptAssign')));
    assert.deepEqual(given.map(({ executionId }) => executionId).sort(), ids.sort());
  });

  test('its worker goes before it is told, another gets it', async () => {
    await using scene = await known();
    const { server, worker } = scene;
    const sent = server.run('f');
    worker.socket.terminate();
    const { id } = await sent;
    await using other = await ScriptedWorker.connect(server, { identity: worker.identity });
    assert.equal((await other.startNext()).executionId, id);
  });
});
