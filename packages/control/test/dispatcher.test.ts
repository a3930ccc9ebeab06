import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { LEASE_MS, type ServerMessage } from '@cocore/protocol';
import { pino } from 'pino';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { Dispatcher, MAX_UNANSWERED } from '../src/dispatch/dispatcher.ts';
import type { WorkerLink } from '../src/dispatch/live-attempt.ts';
import { CLAIM_DEADLINE_MS, Sweeper, SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { EventHub } from '../src/events.ts';
import { Metrics } from '../src/metrics.ts';
import { OutputStore } from '../src/output/output-store.ts';
import type { SessionOpened, Store } from '../src/store/store.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { CAPABILITIES } from './support/scripted-worker.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { until } from './support/until.ts';
import { BASH_FILE } from './support/version-fields.ts';

async function openSession(store: Store, sessionId: string, inventory: string[] = []): Promise<SessionOpened> {
  const hash = Buffer.from('token');
  await store.createJoinToken({ hash, ttlMs: 60_000 }).catch(() => undefined);
  const opened = await store.openSession({
    sessionId,
    publicKey: 'key',
    joinTokenHash: hash,
    name: 'worker',
    daemonVersion: '1',
    platform: 'test',
    capabilities: CAPABILITIES,
    inventory: inventory.map((attemptId) => ({ attemptId, heldFrom: null })),
  });
  assert.equal(opened.kind, 'opened');
  return opened;
}

/** Remembers what it was sent. */
class Link implements WorkerLink {
  readonly workerId: string;
  readonly sessionId: string;
  readonly capabilities = CAPABILITIES;
  readonly lastBeatAtMs = 0;
  readonly isBehind = false;
  readonly stopping = null;
  readonly unsentBytes = 0;
  readonly leftBytes = 0;
  readonly sent: ServerMessage[] = [];
  /** Whether the network takes what it is sent. */
  isTaking = true;

  constructor({ workerId }: SessionOpened, sessionId: string) {
    this.workerId = workerId;
    this.sessionId = sessionId;
  }

  send(message: ServerMessage, sent?: () => void): void {
    this.sent.push(message);
    if (this.isTaking) sent?.();
  }

  bind(): number {
    return 1;
  }

  unbind(): void {}

  close(): void {}

  cut(): void {}
}

/** A dispatcher on a store with one function, whose verbs a test may watch or delay. */
async function parts(scope: AsyncDisposableStack, change: (store: Store) => Partial<Store>) {
  const directory = scope.use(temporaryDirectory());
  const real = scope.adopt(await openSqliteStore({ path: join(directory.path, 'db') }), (open) => open.close());
  const projectId = await real.ensureProject('p');
  const blob = { digest: `sha256:${'a'.repeat(64)}`, bytes: 1 };
  const shape = {
    memoryMiB: 128,
    cpus: 1,
    timeoutMs: 1000,
    outputLimitBytes: 1,
    env: {},
    isolation: 'container',
  } as const;
  const file = { name: 'f', ...BASH_FILE, code: blob, image: blob } as const;
  await real.createFunctionVersion({ projectId, ...file, ...shape }, DEFAULT_LIMITS);
  const store: Store = { ...real, ...change(real) };
  const output = new OutputStore(join(directory.path, 'output'), store);
  const common = { store, hub: new EventHub(), clock: new ManualClock(), log: pino({ level: 'silent' }) };
  const dispatcher = new Dispatcher({ ...common, output, metrics: new Metrics() });
  scope.defer(() => dispatcher.stop());
  const create = async () => {
    const execution = {
      function: 'f',
      args: [],
      env: {},
      stdin: null,
      files: [],
      timeoutMs: null,
      outputLimitBytes: null,
    };
    const [created] = await real.createExecutions([{ projectId, idempotencyKey: null, ...execution }], DEFAULT_LIMITS);
    return created!.queued!;
  };
  return { ...common, store: real, dispatcher, create, sweeper: new Sweeper({ ...common, dispatcher }) };
}

test('a new session that is committed while an attempt is placed on the old one, the new one gets the attempt', async () => {
  await using scope = new AsyncDisposableStack();
  const answers: unknown[] = [];
  const { store, dispatcher, create } = await parts(scope, (real) => ({
    assign: async (attempt, worker) => {
      const task = await real.assign(attempt, worker);
      answers.push(task);
      return task;
    },
  }));
  const first = await openSession(store, 's1');
  dispatcher.sessionOpened(new Link(first, 's1'), first);
  // Committed, and not yet known to the dispatcher.
  const second = await openSession(store, 's2');
  dispatcher.enqueue(await create());
  await until('the old session was refused', () => answers.length > 0);
  const link = new Link(second, 's2');
  dispatcher.sessionOpened(link, second);
  await until('the new session has it', () => link.sent.some(({ type }) => type === 'AttemptAssign'));
});

test('a worker that resumes an attempt while its lease runs out, it goes on in the new session', async () => {
  await using scope = new AsyncDisposableStack();
  let resumed: Link | null = null;
  const answers: unknown[] = [];
  let attemptId = '';
  const { store, dispatcher, create, sweeper, clock } = await parts(scope, (real) => ({
    recordLost: async (...lost) => {
      const opened = await openSession(real, 's2', [attemptId]);
      resumed = new Link(opened, 's2');
      assert.equal(dispatcher.sessionOpened(resumed, opened).length, 1);
      const answer = await real.recordLost(...lost);
      answers.push(answer);
      return answer;
    },
  }));
  const first = await openSession(store, 's1');
  const link = new Link(first, 's1');
  dispatcher.sessionOpened(link, first);
  const queued = await create();
  ({ attemptId } = queued);
  dispatcher.enqueue(queued);
  await until('it is assigned', () => link.sent.length > 0);
  await store.recordAccepted(queued, 's1', { driver: 'fake', isolation: 'container' });
  dispatcher.sessionClosed(link);
  for (let passedMs = 0; passedMs <= LEASE_MS; passedMs += SWEEP_MS) {
    clock.advance(SWEEP_MS);
    await sweeper.sweep();
  }
  assert.deepEqual(answers, ['stale']);
  assert.deepEqual((resumed as Link | null)?.sent, []);
  assert.equal(dispatcher.live.get(attemptId)?.link, resumed);
});

test('an assignment that never leaves, session after session, its worker is not expected to answer it, and it is not held against the execution', async () => {
  await using scope = new AsyncDisposableStack();
  const { store, dispatcher, create, sweeper, clock } = await parts(scope, () => ({}));
  const attempt = await create();
  dispatcher.enqueue(attempt);
  const given = (link: Link) => link.sent.some(({ type }) => type === 'AttemptAssign');
  const claimTimePasses = async ({ workerId }: Link) => {
    for (let passedMs = 0; passedMs <= CLAIM_DEADLINE_MS; passedMs += SWEEP_MS) {
      clock.advance(SWEEP_MS);
      sweeper.beat(workerId);
      await sweeper.sweep();
    }
  };
  for (let session = 0; session <= MAX_UNANSWERED; session += 1) {
    const opened = await openSession(store, `s${session}`);
    const link = new Link(opened, `s${session}`);
    link.isTaking = false;
    dispatcher.sessionOpened(link, opened);
    await until('it is given', () => given(link));
    await claimTimePasses(link);
    assert.equal(dispatcher.live.get(attempt.attemptId)?.revokedUptimeMs, null);
  }
  const last = await openSession(store, 'last');
  const link = new Link(last, 'last');
  dispatcher.sessionOpened(link, last);
  await until('it is given', () => given(link));
  await claimTimePasses(link);
  assert.equal(link.sent.at(-1)?.type, 'AttemptRevoke');
});
