import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, describe, test } from 'node:test';
import type { BatchRecord, CocoreError, ExecutionAnswer, ExecutionList, Problem, WorkerList } from '@cocore/protocol';
import { DataDir } from '../src/data-dir.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import { migrateStoreCommand } from '../src/store/move/command.ts';
import { type Moved, type MoveProgress, moveStore } from '../src/store/move/move-store.ts';
import { planMove } from '../src/store/move/plan.ts';
import { Connection } from '../src/store/postgres/connection.ts';
import { migrate as migratePostgres } from '../src/store/postgres/migrate.ts';
import { openPostgresStore } from '../src/store/postgres/postgres-store.ts';
import { openDatabase } from '../src/store/sqlite/database.ts';
import { migrate as migrateSqlite } from '../src/store/sqlite/migrate.ts';
import { CuttingProxy } from './support/cutting-proxy.ts';
import { ManualClock } from './support/manual-clock.ts';
import { executing } from './support/pass.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';
import { Identity, type Message, ScriptedWorker } from './support/scripted-worker.ts';
import { temporaryDatabase, temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const MAIN = join(import.meta.dirname, '..', 'src', 'main.ts');

/** What a database has beside what is moved: each is of the processes that use it. */
const ONLY_IN_POSTGRES = ['migrations', 'writers'];

const textOf = (letter: string, bytes: number) => letter.repeat(bytes);

function send(worker: ScriptedWorker, channel: number, stream: 'stdout' | 'stderr' | 'artifacts', text: string): void {
  for (let at = 0; at < text.length; at += INLINE_OUTPUT_BYTES) {
    worker.output(channel, stream, at, text.slice(at, at + INLINE_OUTPUT_BYTES));
  }
}

async function move(
  dataDirectory: string,
  databaseUrl: string,
  onProgress: (progress: MoveProgress) => void = () => undefined,
  signal = new AbortController().signal,
): Promise<Moved> {
  using dataDir = DataDir.open(dataDirectory);
  return await moveStore({ dataDir, databaseUrl, nowMs: Date.now(), signal, onProgress });
}

/** What everybody is answered who asks. */
async function answersOf(server: TestServer, otherKey: string, batchId: string): Promise<Record<string, unknown>> {
  const answers: Record<string, unknown> = {};
  const ask = async (path: string, key = server.key) => {
    const { status, body } = await server.call<unknown>('GET', path, { key });
    // A problem names its request.
    const answer = status < 400 ? body : (body as Problem).code;
    answers[`${key === server.key ? '' : 'other project: '}${path}`] = [status, answer];
    return body;
  };
  for (const path of ['server', 'functions', 'functions/f', 'functions/g', 'workers', 'keys', `batches/${batchId}`]) {
    await ask(`/v1/${path}`);
  }
  for (const path of ['functions', 'functions/f', 'executions']) await ask(`/v1/${path}`, otherKey);
  const { executions } = (await ask('/v1/executions?limit=100')) as ExecutionList;
  for (const { id } of executions) {
    await ask(`/v1/executions/${id}`);
    for (const path of ['output/stdout', 'output/stderr', 'artifacts']) await ask(`/v1/executions/${id}/${path}`);
  }
  return answers;
}

const refusal = (work: Promise<unknown>): Promise<CocoreError> =>
  work.then(
    () => assert.fail('it is not refused'),
    (error: unknown) => error as CocoreError,
  );

describe('a move to PostgreSQL', { skip: postgresSkip }, () => {
  let postgres: TestPostgres;
  before(async () => {
    postgres = await TestPostgres.start();
  });
  after(() => postgres[Symbol.asyncDispose]());

  /** Tables with rows. */
  async function filled(url: string): Promise<string[]> {
    const tables = await postgres.query<{ name: string }>(
      `SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'`,
      url,
    );
    const names: string[] = [];
    for (const { name } of tables) {
      if (name !== 'migrations' && (await postgres.query(`SELECT 1 FROM ${name} LIMIT 1`, url)).length > 0)
        names.push(name);
    }
    return names;
  }

  test('of all that a server keeps, every answer is the same afterwards, what ran goes on, and what waited runs', async () => {
    const clock = new ManualClock();
    await using server = await TestServer.start({ clock });
    const call = async <T>(path: string, json: object) =>
      (await server.call<T>('POST', `/v1/${path}`, { body: { json } })).body;

    await server.deploy('f');
    await server.deploy('f', { env: { SECOND: 'version' }, memoryMiB: 512 });
    await server.deploy('g', { maxConcurrent: 1, retries: { max: 2, on: ['exit_code'], backoffMs: 60_000 } });
    const otherKey = await server.otherProjectKey();
    await server.deploy('f', {}, otherKey);
    const keyed = { args: ['naïve ☃'], idempotencyKey: 'one' };
    const first = await call<ExecutionAnswer>('functions/f/executions', keyed);
    const executions = [{ function: 'f', args: ['batched'] }, { function: 'f' }, { function: 'g' }];
    const batch = await call<BatchRecord>('batches', { executions, idempotencyKey: 'many' });

    const identity = new Identity();
    const worker = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
    const assigns = new Map<string, Message<'AttemptAssign'>>();
    for (let at = 0; at < 4; at += 1) {
      const assign = await worker.startNext();
      assigns.set(assign.executionId, assign);
    }
    // Small output; large output, in files; a result and artifacts; and one that goes on.
    const [small, large, lasting] = batch.executionIds.map((id) => assigns.get(id)!);
    worker.output(small!.channel, 'stderr', 0, 'no\n');
    worker.end(small!, { kind: 'exited', code: 3 }, { stderr: 'no\n' });
    const [out, err] = [textOf('o', 5 * INLINE_OUTPUT_BYTES + 7), textOf('e', INLINE_OUTPUT_BYTES)];
    send(worker, large!.channel, 'stdout', out);
    send(worker, large!.channel, 'stderr', err);
    worker.end(large!, { kind: 'exited', code: 0 }, { stdout: out, stderr: err });
    const withResult = assigns.get(first.id)!;
    const [result, artifacts] = ['{"sum":13}', textOf('a', 2 * INLINE_OUTPUT_BYTES)];
    worker.output(withResult.channel, 'result', 0, result);
    send(worker, withResult.channel, 'artifacts', artifacts);
    worker.end(withResult, { kind: 'exited', code: 0 }, { result, artifacts });
    for (const one of [small!, large!, withResult]) {
      await worker.next('AttemptEndedAck', ({ attemptId }) => attemptId === one.attemptId);
    }
    const sofar = textOf('s', 3 * INLINE_OUTPUT_BYTES);
    send(worker, lasting!.channel, 'stdout', sofar);
    await executing(server, lasting!.executionId);
    await until('its output is kept', async () => {
      return (await server.execution(lasting!.executionId)).output.stdout.bytes === sofar.length;
    });
    await server.call('POST', `/v1/workers/${worker.welcome.workerId}/drain`);
    const queued = [await server.run('f', { args: ['queued'], priority: 3 }), await server.run('g')];
    const cancelled = await server.run('f');
    await server.call('POST', `/v1/executions/${cancelled.id}/cancel`);
    const token = await server.joinToken();
    await worker[Symbol.asyncDispose]();
    await until('the worker is away', async () => {
      const { body } = await server.call<WorkerList>('GET', '/v1/workers');
      return body.workers.every(({ state }) => state === 'offline');
    });

    const asked = await answersOf(server, otherKey, batch.id);
    const { incarnation } = server.server;
    const databaseUrl = await postgres.create();
    const data = join(server.directory.path, 'data');
    let moved!: Moved;
    await server.restart(
      async () => {
        moved = await move(data, databaseUrl);
        // They are not needed any more.
        rmSync(join(data, 'cocore.db'));
        rmSync(join(data, 'output'), { recursive: true });
      },
      { databaseUrl },
    );
    assert.deepEqual(await answersOf(server, otherKey, batch.id), asked);
    assert.equal(server.server.incarnation, incarnation);
    assert.equal(moved.tables['executions'], 7);
    assert.equal(moved.outputFileBytes, out.length + artifacts.length + sofar.length - 3 * INLINE_OUTPUT_BYTES);

    assert.equal((await call<ExecutionAnswer>('functions/f/executions', keyed)).id, first.id);
    assert.equal((await call<BatchRecord>('batches', { executions, idempotencyKey: 'many' })).id, batch.id);
    const inventory = [lasting!.attemptId];
    await using again = await ScriptedWorker.connect(server, { identity, inventory });
    const [resumed] = again.welcome.resume;
    assert.equal(resumed?.attemptId, lasting!.attemptId);
    again.output(resumed.channel, 'stdout', sofar.length, 'and on');
    again.end(lasting!, { kind: 'exited', code: 0 }, { stdout: `${sofar}and on` });
    assert.equal((await server.execution(lasting!.executionId, '10s')).state, 'success');
    const { body } = await server.call<string>('GET', `/v1/executions/${lasting!.executionId}/output/stdout`);
    assert.equal(body, `${sofar}and on`);

    assert.equal((await again.next('DrainNotice')).draining, true);
    await using other = await ScriptedWorker.connect(server, { joinToken: token, identity: new Identity() });
    other.echoAll();
    for (const { id } of queued) {
      const ended = await server.execution(id, '10s');
      assert.deepEqual([ended.state, ended.attempts.length], ['success', 1]);
    }
    assert.notEqual((await server.run('f', {}, '10s')).id, first.id);
  });

  test('it has a place for every table and column of the embedded store, and one without a place stops it', async () => {
    using place = temporaryDatabase();
    const from = openDatabase(place.path);
    migrateSqlite(from, 0);
    const url = await postgres.create();
    const to = await Connection.open(url);
    await migratePostgres(to, 0);
    const plan = await planMove(from, to);
    const columns = await postgres.query<{ table: string; column: string }>(
      `SELECT table_name AS table, column_name AS column FROM information_schema.columns WHERE table_schema = 'public'`,
      url,
    );
    const kept = columns.filter(({ table }) => !ONLY_IN_POSTGRES.includes(table));
    assert.deepEqual(
      plan.flatMap((table) => table.columns.map(({ name }) => `${table.name}.${name}`)).sort(),
      kept.map(({ table, column }) => `${table}.${column}`).sort(),
    );
    from.exec('ALTER TABLE workers ADD COLUMN colour TEXT');
    await assert.rejects(planMove(from, to), /workers\.colour has no place/);
    from.exec('CREATE TABLE colours (name TEXT) STRICT');
    await assert.rejects(planMove(from, to), /(colours|workers\.colour) has no place/);
    from.close();
    await to.close();
  });

  test('that is interrupted, cut off, or cut off at its commit: nothing is there, or all is and it says so', async () => {
    await using server = await TestServer.start();
    await server.deploy('f');
    const { id } = await server.run('f', { args: ['x'] });
    const data = join(server.directory.path, 'data');
    const url = new URL(await postgres.create());
    await using proxy = await CuttingProxy.start(Number(url.port));
    const behind = new URL(url);
    behind.port = String(proxy.port);
    await server.restart(
      async () => {
        const interrupt = new AbortController();
        const stopped = move(
          data,
          url.href,
          ({ table, step }) => {
            if (table === 'executions' && step === 'comparing') interrupt.abort();
          },
          interrupt.signal,
        );
        await assert.rejects(stopped, { name: 'AbortError' });
        assert.deepEqual(await filled(url.href), []);
        for (const [word, tables] of [
          ['COPY 1\0', 0],
          ['COMMIT\0', 1],
        ] as const) {
          proxy.cutAt(word);
          assert.equal((await refusal(move(data, behind.href))).code, 'database_unavailable');
          assert.equal(Math.min(1, (await filled(url.href)).length), tables, word);
        }
        const again = await refusal(move(data, url.href));
        assert.deepEqual([again.code, /moved there before/.test(again.message)], ['database_not_empty', true]);
      },
      { databaseUrl: url.href },
    );
    assert.deepEqual((await server.execution(id)).args, ['x']);
  });

  test('leaves the embedded store as it is; text that PostgreSQL cannot keep is kept as it would have been', async () => {
    await using server = await TestServer.start();
    await server.deploy('f');
    const { id } = await server.run('f', { args: ['x'.repeat(100_000), 'y'] });
    const path = join(server.directory.path, 'data', 'cocore.db');
    const url = await postgres.create();
    const rows = () => {
      const database = new DatabaseSync(path, { readOnly: true });
      const tables = database.prepare(`SELECT name FROM sqlite_master WHERE type = 'table'`).all();
      const all = tables.map(({ name }) => [name, database.prepare(`SELECT * FROM ${String(name)}`).all()]);
      database.close();
      return all;
    };
    await server.restart(async () => {
      const database = new DatabaseSync(path);
      database.prepare(`UPDATE executions SET message = 'a' || char(0) || 'b'`).run();
      database.close();
      const before = rows();
      await move(join(server.directory.path, 'data'), url);
      assert.deepEqual(rows(), before);
    });
    assert.equal((await server.execution(id)).state, 'open');
    const [kept] = await postgres.query<{ message: string }>('SELECT message FROM executions', url);
    assert.equal(kept!.message, 'a\u{FFFD}b');
  });

  test('that cannot be, the error says why, and nothing was written', async () => {
    await using server = await TestServer.start();
    const data = join(server.directory.path, 'data');
    const run = async (...args: string[]) => {
      const child = spawn(process.execPath, [MAIN, 'migrate-store', ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, COCORE_DATABASE_URL: '' },
      });
      const said = { stdout: '', stderr: '' };
      for (const name of ['stdout', 'stderr'] as const) {
        child[name].setEncoding('utf8').on('data', (text: string) => (said[name] += text));
      }
      const [code] = (await once(child, 'close')) as [number];
      return { code, ...said };
    };
    const empty = await postgres.create();
    using nothing = temporaryDirectory();
    mkdirSync(join(nothing.path, 'data'));
    const [used, foreign, served] = [await postgres.create(), await postgres.create(), await postgres.create()];
    const earlier = await openPostgresStore({ url: used });
    await earlier.ensureProject('default');
    await earlier.close();
    await postgres.query('CREATE TABLE theirs (x INTEGER)', foreign);
    const serving = await openPostgresStore({ url: served });

    const refused = async (args: readonly string[]) => {
      const { code, message } = await refusal(migrateStoreCommand(args, {}, new AbortController().signal));
      assert.doesNotMatch(message, /secret/);
      return `${code}: ${message}`;
    };
    for (const [args, words] of [
      [['--data-dir', data], /^usage: --database-url/],
      [['--database-url', empty], /^usage: --data-dir/],
      [['--data-dir', data, '--database-url', empty, '--colour'], /^usage: /],
      [['--data-dir', join(data, 'no'), '--database-url', empty], /^usage: .* does not exist/],
      [['--data-dir', join(nothing.path, 'data'), '--database-url', empty], /^usage: .* holds no store/],
      [['--data-dir', data, '--database-url', empty], /^data_dir_in_use: /],
    ] as const) {
      assert.match(await refused(args), words);
    }
    await server.restart(async () => {
      for (const [url, words] of [
        [postgres.url('missing'), /^database_unavailable: .*does not exist/],
        [used, /^database_not_empty: .*has rows/],
        [foreign, /^database_not_empty: .*theirs/],
        [served, /^database_unfit: .*a server uses it/],
      ] as const) {
        assert.match(await refused(['--data-dir', data, '--database-url', url]), words);
      }
      assert.deepEqual(await filled(empty), []);
      const failed = await run('--data-dir', data, '--database-url', used);
      assert.deepEqual([failed.code, failed.stdout], [1, '']);
      assert.match(failed.stderr, /^error database_not_empty: .*\n.*make another/);
      const { code, stdout, stderr } = await run('--data-dir', data, '--database-url', empty, '--json');
      assert.deepEqual([code, stderr], [0, '']);
      const { tables } = JSON.parse(stdout) as { tables: Record<string, number> };
      assert.deepEqual([tables['projects'], tables['keys'], tables['incarnation']], [1, 1, 1]);
      const people = await postgres.create();
      const said = await run('--data-dir', data, '--database-url', people);
      assert.deepEqual([said.code, /--database-url/.test(said.stdout)], [0, true]);
      assert.match(said.stderr, /^projects: 1 row/m);
    });
    await serving.close();
  });
});
