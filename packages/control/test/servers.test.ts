import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { CocoreError, LEASE_MS, type WorkerList, type WorkerRecord } from '@cocore/protocol';
import { BEAT_MS } from '../src/servers/membership.ts';
import { EventStream } from './support/event-stream.ts';
import { ManualClock } from './support/manual-clock.ts';
import { executing, pass } from './support/pass.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';
import { S3Server } from './support/s3/s3-server.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const skip = postgresSkip;
let postgres: TestPostgres;
let s3: S3Server;
before(async () => {
  if (skip === false) [postgres, s3] = await Promise.all([TestPostgres.start(), S3Server.start()]);
});
after(async () => {
  if (skip === false) await Promise.all([postgres[Symbol.asyncDispose](), s3[Symbol.asyncDispose]()]);
});

type Options = NonNullable<Parameters<typeof TestServer.start>[0]>;

/** Two servers on one database, each with a directory of its own. */
class Pair implements AsyncDisposable {
  readonly #scope = new AsyncDisposableStack();
  readonly url: string;
  readonly options: Options;
  one!: TestServer;
  two!: TestServer;

  private constructor(url: string, options: Options) {
    this.url = url;
    this.options = options;
  }

  static async start(options: Options = {}): Promise<Pair> {
    const databaseUrl = await postgres.create();
    const pair = new Pair(databaseUrl, { databaseUrl, s3: await s3.bucket(), ...options });
    pair.one = await pair.add();
    pair.two = await pair.add();
    await until(
      'they know of each other',
      () => pair.one.server.cluster!.areThere && pair.two.server.cluster!.areThere,
    );
    return pair;
  }

  async add(): Promise<TestServer> {
    return this.#scope.use(await TestServer.start(this.options));
  }

  /** A worker at one of them. */
  async worker(
    server: TestServer,
    options: Parameters<typeof ScriptedWorker.connect>[1] = {},
  ): Promise<ScriptedWorker> {
    return this.#scope.use(await ScriptedWorker.connect(server, options));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#scope.disposeAsync();
  }
}

const workerOf = async (server: TestServer, { welcome }: ScriptedWorker): Promise<WorkerRecord> =>
  (await server.call<WorkerList>('GET', '/v1/workers')).body.workers.find(({ id }) => id === welcome.workerId)!;

test(
  'what is submitted at one server, it runs at a worker of another, is followed live, and ends at both',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('f');
    const worker = await pair.worker(two);
    const { id } = await one.run('f', { args: ['x'] });
    await using events = await EventStream.open(one, id);
    assert.equal((await events.next())?.event, 'execution');
    const ended = one.execution(id, '30s');
    const assign = await worker.startNext();
    assert.equal(assign.executionId, id);
    let text = '';
    for (const piece of ['one', 'two', 'three']) {
      worker.output(assign.channel, 'stdout', text.length, piece);
      text += piece;
      const { data } = await events.nextOf('output');
      assert.equal(Buffer.from(data.base64, 'base64').toString(), piece);
    }
    worker.end(assign, { kind: 'exited', code: 0 }, { stdout: text });
    assert.equal((await events.rest()).at(-1)?.event, 'end');
    assert.deepEqual([(await ended).state, (await ended).stdout?.data], ['success', text]);
    assert.equal((await two.execution(id)).state, 'success');
  },
);

test(
  'what is cancelled at one server whose word is lost, the worker of another comes back without it: it takes no room there',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('f', { maxConcurrent: 1 });
    const worker = await pair.worker(two);
    const { id } = await one.run('f');
    await worker.next('AttemptAssign');
    const { cluster } = one.server;
    const tell = cluster!.tell.bind(cluster);
    cluster!.tell = () => undefined;
    await one.call('POST', `/v1/executions/${id}/cancel`, { body: { json: {} } });
    cluster!.tell = tell;
    assert.equal((await one.execution(id)).state, 'cancelled');
    await worker[Symbol.asyncDispose]();
    const { identity } = worker;
    const again = await pair.worker(two, { identity });
    const next = await one.run('f');
    const beats = setInterval(() => again.beat(1), 1_000).unref();
    const assign = await again.next('AttemptAssign', undefined, 25_000);
    clearInterval(beats);
    assert.equal(assign.executionId, next.id);
  },
);

test(
  'a batch at one server whose executions run at workers of both, who waits for it hears of its end',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('f');
    for (const server of [one, two]) (await pair.worker(server, { capabilities: { cpus: 1 } })).echoAll();
    const executions = Array.from({ length: 20 }, (_, index) => ({ function: 'f', args: [String(index)] }));
    const made = await one.call<{ id: string }>('POST', '/v1/batches', { body: { json: { executions } } });
    assert.equal(made.status, 202, JSON.stringify(made.body));
    const batch = await two.call<{ counts: Record<string, number> }>('GET', `/v1/batches/${made.body.id}?wait=30s`);
    assert.equal(batch.body.counts['success'], 20, JSON.stringify(batch.body));
  },
);

test('what runs at another server, it is cancelled; what waits, it waits nowhere any more', { skip }, async () => {
  await using pair = await Pair.start();
  const { one, two } = pair;
  await one.deploy('f');
  const worker = await pair.worker(two, { capabilities: { memoryMiB: 300 } });
  const { id } = await one.run('f');
  const assign = await worker.startNext();
  await executing(one, id);
  const waiting = await one.run('f');
  await until('both know that it waits', () => two.execution(waiting.id).then((one) => one.waiting?.code === 'busy'));
  // One has no worker, and does not say that there is none.
  assert.equal((await one.execution(waiting.id)).waiting?.code, 'busy');
  const cancel = (server: TestServer, which: string) =>
    server.call<{ result: string }>('POST', `/v1/executions/${which}/cancel`, { body: { json: {} } });
  assert.equal((await cancel(one, waiting.id)).body.result, 'cancelled');
  assert.equal((await cancel(one, id)).body.result, 'requested');
  await worker.next('AttemptCancel');
  worker.end(assign, { kind: 'cancelled' });
  assert.equal((await one.execution(id, '10s')).state, 'cancelled');
  const after = await one.run('f');
  const next = await worker.startNext();
  assert.equal(next.executionId, after.id);
});

test(
  'a worker that is drained by way of another server, it is told, given nothing more, and shown at both',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('f');
    const worker = await pair.worker(two);
    const { workerId } = worker.welcome;
    await one.run('f');
    const assign = await worker.startNext();
    await until('it is seen', async () => (await workerOf(one, worker)).attempts === 1);
    assert.equal((await workerOf(one, worker)).state, 'online');
    const drained = await one.call<WorkerRecord>('POST', `/v1/workers/${workerId}/drain`);
    assert.equal(drained.body.drain?.state, 'draining');
    assert.equal((await worker.next('DrainNotice')).draining, true);
    const { id } = await two.run('f');
    worker.end(assign);
    await until('it is drained', async () => (await workerOf(one, worker)).drain?.state === 'drained');
    assert.equal((await workerOf(two, worker)).drain?.state, 'drained');
    assert.equal((await two.execution(id)).state, 'open');
    await one.call('POST', `/v1/workers/${workerId}/undrain`);
    assert.equal((await worker.startNext()).executionId, id);
  },
);

test(
  'a worker that goes to another server in the middle, its attempt goes on there and ends once, its output whole',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('f');
    const identity = new Identity();
    const first = await pair.worker(one, { identity, joinToken: await one.joinToken() });
    const { id } = await one.run('f');
    const assign = await first.startNext();
    first.output(assign.channel, 'stdout', 0, 'before ');
    await until('it is committed', async () => (await two.execution(id)).output.stdout.bytes === 7);
    const second = await pair.worker(two, { identity, inventory: [assign.attemptId] });
    const [resumed] = second.welcome.resume;
    assert.deepEqual([resumed?.attemptId, resumed?.offsets.stdout], [assign.attemptId, 7]);
    // The earlier session is closed by who hears of the new one.
    assert.equal((await first.closed).code, 4001);
    second.output(resumed!.channel, 'stdout', 7, 'after');
    second.end(assign, { kind: 'exited', code: 0 }, { stdout: 'before after' });
    const ended = await one.execution(id, '10s');
    assert.deepEqual([ended.state, ended.stdout?.data, ended.attempts.length], ['success', 'before after', 1]);
    await until('its first server has let go of it', () => one.call<string>('GET', '/metrics').then(isIdle));
  },
);

const isIdle = ({ body }: { body: string }): boolean => /^cocore_attempts_live 0$/m.test(body);

test(
  'a second daemon with a worker’s key at another server, it is refused until the first has gone',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    const identity = new Identity();
    const first = { identity, joinToken: await one.joinToken(), change: () => ({ instance: 'first' }) };
    const worker = await pair.worker(one, first);
    const second = { identity, change: () => ({ instance: 'second' }) };
    await using refused = await ScriptedWorker.dial(two, second);
    assert.equal((await refused.next('ServerRefusal')).code, 'worker_duplicate');
    // The same daemon may go where it likes.
    const moved = await pair.worker(two, { identity, change: () => ({ instance: 'first' }) });
    await worker.closed;
    await moved[Symbol.asyncDispose]();
    await until('the second is let in', async () => {
      await using again = await ScriptedWorker.dial(one, second);
      return await again.next('ServerWelcome').then(
        () => true,
        () => false,
      );
    });
  },
);

test(
  'limits of a function and of a key, with two servers under load, never more have a worker at once',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    await one.deploy('limited', { maxConcurrent: 3 });
    await one.deploy('free');
    const running = new Map<string, Set<string>>();
    const most = new Map<string, number>();
    for (const server of [one, two, one, two]) {
      const worker = await pair.worker(server);
      void (async () => {
        for (;;) {
          const assign = await worker.next('AttemptAssign', undefined, 60_000);
          const name = assign.task.argv.at(-1)!;
          const now = running.get(name) ?? new Set();
          running.set(name, now.add(assign.attemptId));
          most.set(name, Math.max(most.get(name) ?? 0, now.size));
          worker.accept(assign);
          worker.started(assign);
          setTimeout(() => {
            // What is said to have ended counts no more, whenever that is heard.
            now.delete(assign.attemptId);
            worker.end(assign);
          }, 20).unref();
        }
      })().catch(() => undefined);
    }
    const made: Promise<{ id: string }>[] = [];
    for (let index = 0; index < 30; index += 1) {
      const server = index % 2 === 0 ? one : two;
      made.push(server.run('limited', { args: ['function'] }));
      made.push(server.run('free', { args: ['key'], concurrencyKey: 'k', concurrencyLimit: 2 }));
    }
    for (const { id } of await Promise.all(made)) assert.equal((await two.execution(id, '60s')).state, 'success');
    assert.ok(most.get('function')! <= 3 && most.get('key')! <= 2, JSON.stringify([...most]));
    assert.ok(most.get('function')! > 1, 'nothing ran beside anything');
  },
);

test('a limit that another server deployed, it holds for what was created before', { skip }, async () => {
  await using pair = await Pair.start();
  const { one, two } = pair;
  await one.deploy('f');
  const worker = await pair.worker(one);
  await one.run('f');
  await worker.startNext();
  await two.deploy('f', { maxConcurrent: 1 });
  const second = await one.run('f');
  const third = await two.run('f');
  await until('both wait for the limit', async () => {
    const codes = await Promise.all([second, third].map(({ id }) => one.execution(id)));
    return codes.every(({ waiting }) => waiting?.code === 'cap');
  });
});

test(
  'a server that ends in order, what it had is seen to by the other, and given up a lease later',
  { skip },
  async () => {
    const clock = new ManualClock();
    await using pair = await Pair.start({ clock });
    const { one, two } = pair;
    await two.deploy('g');
    const worker = await pair.worker(one);
    const { id } = await two.run('g');
    await worker.startNext();
    await executing(two, id);
    const waits = await two.run('g', { args: ['waits'] });
    await worker.next('AttemptAssign');
    await one.server[Symbol.asyncDispose]();
    await until('it is seen to', () =>
      two.call<string>('GET', '/metrics').then(({ body }) => /^cocore_attempts_live 2$/m.test(body)),
    );
    await pass(two, clock, LEASE_MS + 2_000);
    const { attempts } = await two.execution(id);
    assert.deepEqual(attempts[0]?.outcome, { kind: 'lost', cause: 'host_lost' });
    assert.equal((await two.execution(waits.id)).state, 'open');
  },
);

test(
  'a server that says nothing any more, the other sees to its workers, and one that lives after all has them dial again',
  { skip },
  async () => {
    const clock = new ManualClock();
    await using pair = await Pair.start({ clock });
    const { one, two } = pair;
    await one.deploy('f');
    const identity = new Identity();
    const worker = await pair.worker(one, { identity, joinToken: await one.joinToken() });
    const { id } = await one.run('f');
    const assign = await worker.startNext();
    await executing(two, id);
    // So fast that the other has not beaten meanwhile.
    await until(
      'the other is taken for gone',
      async () => {
        clock.advance(BEAT_MS);
        await two.server.cluster!.look();
        return !two.server.cluster!.areThere;
      },
      60_000,
    );
    assert.equal((await worker.closed).code, 4001);
    const again = await pair.worker(one, { identity, inventory: [assign.attemptId] });
    assert.equal(again.welcome.resume[0]?.attemptId, assign.attemptId);
    again.end(assign);
    const ended = await two.execution(id, '10s');
    assert.deepEqual([ended.state, ended.attempts.length], ['success', 1]);
  },
);

test('an execution that fits no worker here, and one at another server, it is not ended for it', { skip }, async () => {
  const clock = new ManualClock();
  await using pair = await Pair.start({ clock });
  const { one, two } = pair;
  await one.deploy('f', { memoryMiB: 1024 });
  await pair.worker(one, { capabilities: { memoryMiB: 300 } });
  const large = await pair.worker(two, { capabilities: { memoryMiB: 1100 } });
  const first = await one.run('f');
  await large.startNext();
  const { id } = await one.run('f');
  await executing(one, first.id);
  for (let second = 0; second < 70; second += 1) {
    large.beat(second + 1);
    await large.next('HeartbeatAck');
    clock.advance(1_000);
    await one.server.sweeper.sweep();
  }
  assert.equal((await one.execution(id)).state, 'open');
});

test(
  'a blob of an attempt, its worker has it from a server that has not its session, and no other',
  { skip },
  async () => {
    await using pair = await Pair.start();
    const { one, two } = pair;
    const { codeDigest } = await one.deploy('f');
    const worker = await pair.worker(two);
    const fetched = async () => {
      const headers = { authorization: `Bearer ${worker.welcome.blobToken}` };
      return (await fetch(`${one.url}/v1/worker/blobs/${codeDigest}`, { headers })).status;
    };
    assert.equal(await fetched(), 404);
    await one.run('f');
    await worker.startNext();
    assert.equal(await fetched(), 200);
    await worker[Symbol.asyncDispose]();
    await until('the session is closed', async () => (await fetched()) === 401);
  },
);

test(
  'a server that keeps blobs elsewhere, it is refused while another lives; each directory has its own marker',
  { skip },
  async () => {
    const databaseUrl = await postgres.create();
    const options = { databaseUrl, s3: await s3.bucket() };
    await using first = await TestServer.start(options);
    await assert.rejects(TestServer.start({ databaseUrl }), (error: unknown) => {
      assert.ok(error instanceof CocoreError);
      return error.code === 'database_unfit' && /one blob store/.test(error.message);
    });
    const { incarnation, serverId } = first.server;
    await using second = await TestServer.start(options);
    assert.deepEqual([second.server.incarnation, second.server.serverId], [incarnation, serverId]);
    await first.restart();
    await second.restart();
    for (const { server } of [first, second]) {
      assert.deepEqual([server.incarnation, server.serverId], [incarnation, serverId]);
    }
  },
);
