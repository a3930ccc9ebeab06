import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../../tests/faults/random.ts';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { DiskFailure } from '../src/disk-failure.ts';
import { openPostgresStore } from '../src/store/postgres/postgres-store.ts';
import type { QueuedAttempt, Store } from '../src/store/store.ts';
import { SANDBOX, reportedEnd, StoreScene } from './store/store-scene.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';

let postgres: TestPostgres;
before(async () => {
  if (postgresSkip === false) postgres = await TestPostgres.start();
});
after(async () => {
  if (postgresSkip === false) await postgres[Symbol.asyncDispose]();
});

const LIMITS = { ...DEFAULT_LIMITS, maxLiveExecutions: 40, maxQueuedOfFunction: 25 };
const WORKERS = 4;
const KEYS = 6;
const OUTPUT = Buffer.from('hello');

interface Given {
  readonly attempt: QueuedAttempt;
  readonly worker: number;
  readonly sessionId: string;
}

/** Servers on one database, of which each is asked for anything at any time, whatever the others do. */
class Load {
  readonly scene: StoreScene;
  readonly #random: () => number;
  readonly #stores: readonly Store[];
  readonly #queued: QueuedAttempt[] = [];
  readonly #given: Given[] = [];
  readonly #sessions: string[] = [];
  readonly #workerIds: string[] = [];
  #lastSession = 0;
  /** Execution by idempotency key, as it was answered first. */
  readonly #keyed = new Map<string, string>();
  readonly created = new Set<string>();
  /** By the argument that no other has. */
  readonly refused = new Set<string>();
  /** The signature of each end that was acknowledged, by attempt. */
  readonly ended = new Map<string, string>();
  readonly cancelled = new Set<string>();
  failures = 0;
  #made = 0;

  constructor(scene: StoreScene, stores: readonly Store[], seed: number) {
    this.scene = scene;
    this.#stores = stores;
    const random = new Random(String(seed));
    this.#random = () => random.next();
  }

  async begin(): Promise<void> {
    for (let worker = 0; worker < WORKERS; worker += 1) {
      const opened = await this.scene.join(`k${worker}`, `s-${worker}`);
      this.#workerIds.push(opened.workerId);
      this.#sessions.push(`s-${worker}`);
    }
  }

  /** Until it is told to stop; what fails as a disk does is counted. */
  async lane(goesOn: () => boolean): Promise<void> {
    while (goesOn()) {
      await this.#step().catch((error: unknown) => {
        if (!(error instanceof DiskFailure)) throw error;
        this.failures += 1;
      });
    }
  }

  async #step(): Promise<void> {
    const store = this.#pick(this.#stores)!;
    const chance = this.#random();
    if (chance < 0.3) return this.#create(store);
    if (chance < 0.55) return this.#assign(store);
    if (chance < 0.9) return this.#report(store);
    if (chance < 0.95) return this.#cancel(store);
    if (chance < 0.97) return this.#reconnect(store);
    if (chance < 0.985) return this.#lose(store);
    await store.expireQueue(3);
  }

  async #create(store: Store): Promise<void> {
    const isKeyed = this.#random() < 0.3;
    const key = isKeyed ? `key ${Math.floor(this.#random() * KEYS)}` : null;
    this.#made += 1;
    const mark = `made ${this.#made}`;
    const request = this.scene.request({ idempotencyKey: key, args: isKeyed ? ['keyed'] : [mark] });
    const made = await store.createExecutions([request], LIMITS).catch((error: unknown) => {
      if (!isKeyed) this.refused.add(mark);
      if ((error as { code?: string }).code !== 'quota_exceeded') throw error;
      return [];
    });
    for (const { executionId, queued } of made) {
      this.created.add(executionId);
      if (queued !== null) this.#queued.push(queued);
      if (key === null) continue;
      assert.equal(this.#keyed.get(key) ?? executionId, executionId, `two executions of ${key}`);
      this.#keyed.set(key, executionId);
    }
  }

  async #assign(store: Store): Promise<void> {
    const attempt = this.#pick(this.#queued);
    if (attempt === undefined) return;
    const worker = Math.floor(this.#random() * WORKERS);
    const sessionId = this.#sessions[worker]!;
    const task = await store.assign(attempt, { workerId: this.#workerIds[worker]!, sessionId });
    if (task !== null && task !== 'stale') this.#given.push({ attempt, worker, sessionId });
  }

  async #report(store: Store): Promise<void> {
    const given = this.#pick(this.#given);
    if (given === undefined) return;
    const { attempt, sessionId } = given;
    await Promise.all([
      store.recordAccepted(attempt, sessionId, SANDBOX),
      store.recordStarted(attempt, sessionId, 0),
      store.recordOutput(attempt, sessionId, [{ stream: 'stdout', from: 0, to: OUTPUT.length, inline: OUTPUT }]),
    ]);
    if (this.#random() < 0.3) return;
    const signature = `by ${sessionId}`;
    const stdout = { bytes: OUTPUT.length, sha256: 'sha256:x', truncated: false };
    const code = this.#random() < 0.5 ? 0 : 1;
    const end = reportedEnd({ signature, outcome: { kind: 'exited', code }, final: true });
    const reported = await store.recordEnd(attempt, sessionId, { ...end, streams: { ...end.streams, stdout } });
    if (reported !== 'recorded') return;
    assert.ok(!this.ended.has(attempt.attemptId), 'an attempt ended twice');
    this.ended.set(attempt.attemptId, signature);
  }

  async #cancel(store: Store): Promise<void> {
    const attempt = this.#pick(this.#queued);
    if (attempt === undefined) return;
    const cancelled = await store.requestCancel(attempt.projectId, attempt.executionId);
    if (cancelled?.result === 'cancelled') this.cancelled.add(attempt.executionId);
  }

  async #reconnect(store: Store): Promise<void> {
    const worker = Math.floor(this.#random() * WORKERS);
    this.#lastSession += 1;
    const sessionId = `s-${worker}-${this.#lastSession}`;
    const inventory = this.#given.filter((given) => given.worker === worker && this.#random() < 0.7).slice(-20);
    const { store: before } = this.scene;
    this.scene.store = store;
    try {
      await this.scene.join(`k${worker}`, sessionId, [...new Set(inventory.map(({ attempt }) => attempt.attemptId))]);
    } finally {
      this.scene.store = before;
    }
    this.#sessions[worker] = sessionId;
    for (const { attempt } of inventory) this.#given.push({ attempt, worker, sessionId });
  }

  async #lose(store: Store): Promise<void> {
    const given = this.#pick(this.#given);
    if (given === undefined) return;
    const workerId = this.#workerIds[given.worker]!;
    if (this.#random() < 0.5) await store.recordLost(given.attempt, workerId, null);
    else await store.endByControl(given.attempt, 'run_deadline', null);
    const next = await store.readNext(given.attempt);
    if (next !== null) this.#queued.push(next);
  }

  /** The newest are picked most. */
  #pick<T>(list: readonly T[]): T | undefined {
    return list[list.length - 1 - Math.floor(this.#random() ** 2 * Math.min(list.length, 60))];
  }
}

/** What must be true of a database whatever was asked for, in whatever order. */
async function judge(url: string, load: Load): Promise<void> {
  const rows = <Row extends object>(sql: string) => postgres.query<Row>(sql, url);
  const [counted] = await rows<Record<string, string>>(`
    SELECT p.live_executions, p.queued_executions, p.output_bytes, f.queued_executions AS of_function,
      (SELECT count(*) FROM executions WHERE state IN ('open', 'running')) AS live,
      (SELECT count(*) FROM executions WHERE state = 'open' OR phase = 'requeued') AS queued,
      (SELECT coalesce(sum(stdout_bytes), 0) FROM attempts WHERE ended_at IS NOT NULL) AS output
    FROM projects p JOIN functions f ON f.project_id = p.project_id WHERE f.name = 'add'`);
  assert.deepEqual(
    [counted!['live_executions'], counted!['queued_executions'], counted!['of_function'], counted!['output_bytes']],
    [counted!['live'], counted!['queued'], counted!['queued'], counted!['output']],
  );
  assert.ok(Number(counted!['live']) <= LIMITS.maxLiveExecutions, 'more are live than may be');
  const wrong = await rows(`
    SELECT e.execution_id, e.state, e.phase, count(a.attempt_id) AS live, min(a.state) AS attempt FROM executions e
    LEFT JOIN attempts a ON a.execution_id = e.execution_id AND a.ended_at IS NULL GROUP BY e.project_id, e.execution_id
    HAVING count(a.attempt_id) <> (CASE WHEN e.state IN ('open', 'running') THEN 1 ELSE 0 END)
      OR (e.phase = 'requeued' AND min(a.state) NOT IN ('queued', 'assigned'))
      OR (e.state = 'open' AND min(a.state) NOT IN ('queued', 'assigned'))
      OR (e.phase IN ('preparing', 'executing', 'stopping') AND min(a.state) NOT IN ('accepted', 'started'))`);
  assert.deepEqual(wrong, []);
  const executions = await rows<{ execution_id: string; args: string; state: string }>(
    'SELECT execution_id, args, state FROM executions',
  );
  const ids = new Map(executions.map((row) => [row.execution_id, row]));
  for (const id of load.created) assert.ok(ids.has(id), `${id} was promised and is not there`);
  for (const { args } of executions) {
    const [mark] = JSON.parse(args) as [string];
    assert.ok(!load.refused.has(mark), `${mark} was refused and is there`);
  }
  for (const id of load.cancelled) assert.equal(ids.get(id)?.state, 'cancelled');
  const attempts = await rows<{ attempt_id: string; worker_signature: string | null; bytes: string; chunks: string }>(`
    SELECT a.attempt_id, a.worker_signature, a.stdout_bytes AS bytes,
      (SELECT coalesce(sum(octet_length(data)), 0) FROM output_chunks c WHERE c.attempt_id = a.attempt_id) AS chunks FROM attempts a`);
  const signatures = new Map(attempts.map((row) => [row.attempt_id, row.worker_signature]));
  for (const [id, signature] of load.ended) assert.equal(signatures.get(id), signature);
  for (const { bytes, chunks } of attempts) assert.equal(chunks, bytes);
}

async function withLoad(
  seed: number,
  servers: number,
  work: (load: Load, url: string) => Promise<void>,
): Promise<{ load: Load }> {
  const url = await postgres.create();
  const scene = new StoreScene(
    (path, now) => openPostgresStore({ url: path, now }),
    () => ({
      path: url,
      [Symbol.dispose]: () => undefined,
    }),
  );
  await scene.begin();
  const others = await Promise.all(
    Array.from({ length: servers - 1 }, () => openPostgresStore({ url, now: scene.clock.nowMs })),
  );
  const load = new Load(scene, [scene.store, ...others], seed);
  try {
    await load.begin();
    await work(load, url);
  } finally {
    // Else they look for the database for ever, and the file does not end.
    for (const store of others) await store.close();
    await scene.end();
  }
  await judge(url, load);
  return { load };
}

/** The others run where COCORE_TEST_WHOLE is set. */
const SEEDS =
  process.env['COCORE_TEST_WHOLE'] === undefined ? [1] : Array.from({ length: 20 }, (_, index) => index + 1);

for (const seed of SEEDS) {
  test(
    `three servers that write the same at the same time, seed ${seed}: one end each, counters and promises hold`,
    { skip: postgresSkip },
    async () => {
      const { load } = await withLoad(seed, 3, async (busy) => {
        let left = 700;
        await Promise.all(Array.from({ length: 24 }, () => busy.lane(() => (left -= 1) >= 0)));
      });
      assert.equal(load.failures, 0);
      assert.ok(load.created.size > 50 && load.ended.size > 15, `${load.created.size} made, ${load.ended.size} ended`);
    },
  );
}

test(
  'connections that are cut at any moment under load, what was answered is there, and what was refused is not',
  { skip: postgresSkip },
  async () => {
    await withLoad(4, 2, async (busy, url) => {
      const until = Date.now() + 60_000;
      const isEnough = () => busy.failures >= 20 && busy.created.size >= 40 && busy.ended.size >= 5;
      const lanes = Promise.all(Array.from({ length: 16 }, () => busy.lane(() => !isEnough() && Date.now() < until)));
      const database = new URL(url).pathname.slice(1);
      for (let cuts = 0; !isEnough() && Date.now() < until; cuts += 1) {
        await sleep(5 + ((cuts * 37) % 150));
        await postgres.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '${database}' AND application_name = 'cocore'`,
        );
      }
      await lanes;
      assert.ok(isEnough(), `${busy.failures} failures, ${busy.created.size} made, ${busy.ended.size} ended`);
    });
  },
);
