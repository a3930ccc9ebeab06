import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import pg from 'pg';
import { pino } from 'pino';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { DiskFailure } from '../src/disk-failure.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import { Connection } from '../src/store/postgres/connection.ts';
import { storeError } from '../src/store/postgres/errors.ts';
import { migrate, readMigrations, serve } from '../src/store/postgres/migrate.ts';
import { openPostgresStore } from '../src/store/postgres/postgres-store.ts';
import { READ_TASK } from '../src/store/verbs/assignments.ts';
import { FIND } from '../src/store/verbs/attempt-rows.ts';
import { READ_EXECUTION } from '../src/store/verbs/executions.ts';
import { StoreScene } from './store/store-scene.ts';
import { CuttingProxy } from './support/cutting-proxy.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

let postgres: TestPostgres;
before(async () => {
  if (postgresSkip === false) postgres = await TestPostgres.start();
});
after(async () => {
  if (postgresSkip === false) await postgres[Symbol.asyncDispose]();
});

const refusal = (work: Promise<unknown>): Promise<CocoreError> =>
  work.then(
    () => assert.fail('it is not refused'),
    (error: unknown) => {
      assert.ok(error instanceof CocoreError, String(error));
      return error;
    },
  );

test('a database that cannot be used, the error says why, and never the password', { skip: postgresSkip }, async () => {
  await postgres.query(`CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0`);
  for (const [url, code, words] of [
    ['postgres://postgres:geheim@127.0.0.1:1/x', 'database_unavailable', /127\.0\.0\.1:1\/x .*ECONNREFUSED/],
    [postgres.url('postgres', 'geheim'), 'database_unavailable', /lets the server not in/],
    [postgres.url('nothing'), 'database_unavailable', /does not exist/],
    [postgres.url('latin'), 'database_unfit', /LATIN1/],
  ] as const) {
    const error = await refusal(openPostgresStore({ url }));
    assert.equal(error.code, code);
    assert.match(error.message, words);
    assert.doesNotMatch(error.message, /geheim|secret/);
  }
});

test(
  'a connection that is cut as soon as it is made, it is a failure of the database',
  { skip: postgresSkip },
  async () => {
    const client = new pg.Client({ connectionString: postgres.url() });
    await client.connect();
    client.on('error', () => undefined);
    const cut = once(client, 'error');
    await postgres.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
    await cut;
    const error: unknown = await client.query('SELECT 1').catch((failure: unknown) => failure);
    assert.match(String(error), /not queryable/);
    assert.ok(storeError(error) instanceof DiskFailure);
  },
);

test(
  'settings by which the database may lose what it acknowledged, they are in the log, and a commit waits for the disk',
  { skip: postgresSkip },
  async () => {
    const url = await postgres.create();
    const lines: string[] = [];
    const store = await openPostgresStore({ url, log: pino({}, { write: (line: string) => void lines.push(line) }) });
    await store.close();
    assert.deepEqual(lines.map((line) => (JSON.parse(line) as { setting: string }).setting).sort(), [
      'fsync',
      'full_page_writes',
    ]);
    await postgres.query(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET synchronous_commit = off`);
    const connection = await Connection.open(url);
    const [answer] = await connection.round([{ sql: 'SHOW synchronous_commit', parameters: [] }]);
    assert.deepEqual(answer!.rows, [{ synchronous_commit: 'on' }]);
    await connection.close();
  },
);

test('two servers that begin at once on an empty database, both find the schema', { skip: postgresSkip }, async () => {
  const url = await postgres.create();
  const stores = await Promise.all([1, 2, 3].map(() => openPostgresStore({ url })));
  const projects = await Promise.all(stores.map((store) => store.ensureProject('default')));
  assert.equal(new Set(projects).size, 1);
  for (const store of stores) await store.close();
});

test(
  'a migration that only adds, an older server goes on beside it; one that excludes older servers, it waits for their end and keeps them out',
  { skip: postgresSkip },
  async () => {
    const url = await postgres.create();
    const first = readMigrations();
    const adds = {
      number: first.length + 1,
      name: 'adds.sql',
      sha256: 'a',
      sql: 'ALTER TABLE workers ADD COLUMN more TEXT',
    };
    const excludes = {
      number: first.length + 2,
      name: 'excludes.sql',
      sha256: 'b',
      sql: '-- Excludes older servers.\nALTER TABLE workers DROP COLUMN more',
    };
    const older = await openPostgresStore({ url });
    await older.listWorkers();
    const newer = await Connection.open(url);
    await migrate(newer, 0, [...first, adds]);
    await serve(newer);
    // What it had prepared has other columns now.
    assert.deepEqual(await older.listWorkers(), []);
    await older.ensureProject('default');
    const another = await Connection.open(url);
    assert.match((await refusal(migrate(another, 0, [...first, adds, excludes]))).message, /other servers use it/);
    another.drop();
    await older.close();
    await newer.close();
    const alone = await Connection.open(url);
    await migrate(alone, 0, [...first, adds, excludes]);
    await alone.close();
    assert.equal((await refusal(openPostgresStore({ url }))).code, 'database_unfit');
    const changed = await Connection.open(url);
    const other = [{ ...first[0]!, sha256: 'c' }, ...first.slice(1)];
    assert.match((await refusal(migrate(changed, 0, other))).message, /another text/);
    changed.drop();
  },
);

test(
  'a database that a server of an older release uses, which shares it with none, a newer one is refused until that has ended',
  { skip: postgresSkip },
  async () => {
    const url = await postgres.create();
    const older = await Connection.open(url);
    await older.execute('SELECT pg_advisory_lock(4930204)');
    const error = await refusal(openPostgresStore({ url }));
    assert.deepEqual([error.code, /older release/.test(error.message)], ['database_unfit', true]);
    await older.close();
    const first = await openPostgresStore({ url });
    await (await openPostgresStore({ url })).close();
    await first.close();
  },
);

/** A store of the database, with a function to run. */
async function sceneAt(url: string): Promise<StoreScene> {
  const place = { path: url, [Symbol.dispose]: () => undefined };
  const scene = new StoreScene(
    (path, now) => openPostgresStore({ url: path, now }),
    () => place,
  );
  await scene.begin();
  return scene;
}

test(
  'a connection that is cut after a commit and before its answer, the answer is what was committed; cut before, nothing is there',
  { skip: postgresSkip },
  async () => {
    const url = new URL(await postgres.create());
    await using proxy = await CuttingProxy.start(Number(url.port));
    url.port = String(proxy.port);
    const scene = await sceneAt(url.href);
    proxy.cutAt('COMMIT\0');
    const made = await Promise.all([scene.create(), scene.create()]);
    assert.equal(proxy.cuts, 1);
    proxy.cutAt('INSERT 0 1\0');
    const lost = await Promise.allSettled([scene.create(), scene.create()]);
    assert.equal(proxy.cuts, 2);
    for (const one of lost) assert.ok(one.status === 'rejected' && one.reason instanceof DiskFailure);
    assert.equal(await scene.store.isWritable(), true);
    const { executions } = await scene.store.listExecutions(scene.projectId, { limit: 10 });
    assert.deepEqual(new Set(executions.map(({ id }) => id)), new Set(made.map(({ executionId }) => executionId)));
    await scene.end();
  },
);

test(
  'a project that is at its limit, all servers together let no more in, whatever comes at once',
  { skip: postgresSkip },
  async () => {
    const url = await postgres.create();
    const scene = await sceneAt(url);
    const others = await Promise.all([1, 2].map(() => openPostgresStore({ url, now: scene.clock.nowMs })));
    const limits = { ...DEFAULT_LIMITS, maxLiveExecutions: 7 };
    const asked = [scene.store, ...others].flatMap((store) =>
      Array.from({ length: 5 }, () => store.createExecutions([scene.request()], limits)),
    );
    const codes = await Promise.all(asked.map((one) => scene.code(one)));
    assert.equal(codes.filter((code) => code === 'none').length, 7);
    assert.equal(codes.filter((code) => code === 'quota_exceeded').length, 8);
    for (const store of others) await store.close();
    await scene.end();
  },
);

test(
  'a database that is stopped and started under a server, requests are refused meanwhile, and what runs ends well',
  { skip: postgresSkip },
  async () => {
    const databaseUrl = await postgres.create();
    await using server = await TestServer.start({ databaseUrl });
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('lasting');
    const [first, second] = [await server.run('lasting'), await server.run('lasting', { args: ['2'] })];
    const assigns = [await worker.startNext(), await worker.startNext()];
    const text = 'x'.repeat(5 * INLINE_OUTPUT_BYTES);
    for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
      await postgres.stop(signal);
      const refused = await server.call('POST', '/v1/functions/lasting/executions', { body: { json: {} } });
      assert.deepEqual([refused.status, refused.body.code], [503, 'not_ready']);
      const assign = assigns.shift()!;
      for (let at = 0; at < text.length; at += INLINE_OUTPUT_BYTES) {
        worker.output(assign.channel, 'stdout', at, text.slice(at, at + INLINE_OUTPUT_BYTES));
      }
      worker.end(assign, { kind: 'exited', code: 0 }, { stdout: text });
      await postgres.run();
      await worker.next('AttemptEndedAck', ({ attemptId }) => attemptId === assign.attemptId, 30_000);
    }
    for (const { id } of [first, second]) {
      const ended = await server.execution(id);
      assert.deepEqual([ended.state, ended.attempts.length], ['success', 1]);
      const output = await server.call<string>('GET', `/v1/executions/${id}/output/stdout`);
      assert.equal(output.body, text);
    }
  },
);

test(
  'an attempt or an execution by its id in a database that nobody has analysed, it is found by the id, and all else from it',
  { skip: postgresSkip },
  async () => {
    await postgres.query('CREATE DATABASE plans');
    const store = await openPostgresStore({ url: postgres.url('plans') });
    const connection = await Connection.open(postgres.url('plans'));
    try {
      for (const sql of [FIND, READ_TASK]) {
        const [answer] = await connection.round([{ sql: `EXPLAIN ${sql}`, parameters: ['at_1', 'pj_1'] }]);
        const plan = answer!.rows.map((row) => String(Object.values(row)[0])).join('\n');
        const scans = [...plan.matchAll(/Index Scan using (\w+) on (\w+)/g)].map(([, index, table]) => [table, index]);
        assert.deepEqual(scans[0], ['attempts', 'attempts_attempt_id_key'], plan);
        assert.equal(scans[1]?.[0], 'executions', plan);
        assert.match(plan, /Index Cond: \(\(project_id = a\.project_id\) AND \(execution_id = a\.execution_id\)\)/);
      }
      const [answer] = await connection.round([{ sql: `EXPLAIN ${READ_EXECUTION}`, parameters: ['pj_1', 'ex_1'] }]);
      const plan = JSON.stringify(answer!.rows);
      assert.match(plan, /Index Scan using executions_pkey/);
      assert.match(plan, /Index Scan using attempts_pkey/);
    } finally {
      await connection.close();
      await store.close();
    }
  },
);

/** As those that were created, so many more. */
const MANY = (table: string, ids: string) => `INSERT INTO ${table}
  SELECT (jsonb_populate_record(null::${table}, to_jsonb(one) || ${ids})).* FROM ${table} one, generate_series(1, 2000) i`;

test('a table was small when the plan was made and has grown, it is made anew', { skip: postgresSkip }, async () => {
  const url = await postgres.create();
  const scene = await sceneAt(url);
  const connection = await Connection.open(url);
  try {
    await connection.execute('ALTER TABLE attempts SET (autovacuum_enabled = false)');
    await connection.execute(
      'PREPARE find AS SELECT state FROM attempts WHERE attempt_id = $1 AND project_id = $2 AND execution_id = $3',
    );
    const plan = async () => {
      const [answer] = await connection.round([{ sql: "EXPLAIN EXECUTE find('a', 'p', 'e')", parameters: [] }]);
      return JSON.stringify(answer!.rows);
    };
    await scene.store.createExecutions([scene.request()], DEFAULT_LIMITS);
    const first = await plan();
    await connection.execute(MANY('executions', `jsonb_build_object('execution_id', 'ex_' || i)`));
    await connection.execute(
      MANY('attempts', `jsonb_build_object('execution_id', 'ex_' || i, 'attempt_id', 'at_' || i)`),
    );
    assert.equal(await plan(), first);
    for (let transaction = 0; transaction < 64; transaction += 1) await connection.renewPlans();
    assert.notEqual(await plan(), first);
  } finally {
    await connection.close();
    await scene.end();
  }
});
