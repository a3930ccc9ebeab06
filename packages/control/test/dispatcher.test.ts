import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { ServerMessage } from '@cocore/protocol';
import { pino } from 'pino';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { SYSTEM_CLOCK } from '../src/clock.ts';
import { Dispatcher } from '../src/dispatch/dispatcher.ts';
import type { WorkerLink } from '../src/dispatch/live-attempt.ts';
import { EventHub } from '../src/events.ts';
import { Metrics } from '../src/metrics.ts';
import { OutputStore } from '../src/output/output-store.ts';
import type { SessionOpened, Store } from '../src/store/store.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { CAPABILITIES } from './support/scripted-worker.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { until } from './support/until.ts';

async function openSession(store: Store, sessionId: string): Promise<SessionOpened> {
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
    inventory: [],
  });
  assert.equal(opened.kind, 'opened');
  return opened;
}

const linkOf = (workerId: string, sessionId: string, sent: ServerMessage[]): WorkerLink => ({
  workerId,
  sessionId,
  capabilities: CAPABILITIES,
  lastBeatAtMs: 0,
  send: (message) => sent.push(message),
  bind: () => 1,
  unbind: () => undefined,
  close: () => undefined,
});

test('a new session that is committed while an attempt is placed on the old one, the new one gets the attempt', async () => {
  using directory = temporaryDirectory();
  await using scope = new AsyncDisposableStack();
  const store = scope.adopt(await openSqliteStore({ path: join(directory.path, 'db') }), (open) => open.close());
  const projectId = await store.ensureProject('p');
  const blob = { digest: `sha256:${'a'.repeat(64)}`, bytes: 1 };
  const shape = { memoryMiB: 128, cpus: 1, timeoutMs: 1000, outputLimitBytes: 1, env: {} };
  const file = { name: 'f', runtime: 'bash', fileName: 'f.sh', code: blob, image: blob } as const;
  await store.createFunctionVersion({ projectId, ...file, ...shape }, DEFAULT_LIMITS);
  const answers: unknown[] = [];
  const watched: Store = {
    ...store,
    assign: async (attempt, worker) => {
      const task = await store.assign(attempt, worker);
      answers.push(task);
      return task;
    },
  };
  const output = new OutputStore(join(directory.path, 'output'), watched);
  const log = pino({ level: 'silent' });
  const parts = { store: watched, output, hub: new EventHub(), clock: SYSTEM_CLOCK, metrics: new Metrics(), log };
  const dispatcher = new Dispatcher(parts);
  scope.defer(() => dispatcher.stop());
  const sent: ServerMessage[] = [];
  const first = await openSession(store, 's1');
  dispatcher.sessionOpened(linkOf(first.workerId, 's1', []), first);
  // Committed, and not yet known to the dispatcher.
  const second = await openSession(store, 's2');
  const execution = { function: 'f', args: [], env: {}, stdin: null, timeoutMs: null, outputLimitBytes: null };
  const [created] = await store.createExecutions([{ projectId, idempotencyKey: null, ...execution }], DEFAULT_LIMITS);
  dispatcher.enqueue(created!.queued!);
  await until('the old session was refused', () => answers.length > 0);
  dispatcher.sessionOpened(linkOf(second.workerId, 's2', sent), second);
  await until('the new session has it', () => sent.some(({ type }) => type === 'AttemptAssign'));
});
