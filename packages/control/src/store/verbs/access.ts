import { canRun, type IsolationClass, type KeyRecord, type KeyRole } from '@cocore/protocol';
import type {
  KeyFacts,
  LiveAttemptRow,
  Readopted,
  SessionHello,
  SessionOpened,
  SessionRefused,
  StoredWorker,
} from '../store.ts';
import { liveOfWorker } from './attempt-rows.ts';
import { type Context, newId } from './context.ts';
import type { Verb } from './statements.ts';
import { giveUp, isEndMissing } from './ends.ts';
import { readopt } from './readoption.ts';

interface KeyRow {
  readonly project_id: string;
  readonly key_id: string;
  readonly role: KeyRole;
  readonly secret_hash: Uint8Array;
  readonly created_at: number;
}

const keyRecord = (row: KeyRow): KeyRecord => ({
  id: row.key_id,
  projectId: row.project_id,
  role: row.role,
  createdAt: new Date(row.created_at).toISOString(),
});

export function* ensureProject(context: Context, name: string): Verb<string> {
  const { db } = context;
  const found = yield* db.get<{ project_id: string }>('SELECT project_id FROM projects WHERE name = ?', name);
  if (found !== undefined) return found.project_id;
  const projectId = newId(context, 'project');
  yield* db.send(
    'INSERT INTO projects (project_id, name, created_at) VALUES (?, ?, ?)',
    projectId,
    name,
    context.now(),
  );
  return projectId;
}

export function* createKey(
  context: Context,
  key: { projectId: string; role: KeyRole; keyId: string; secretHash: Uint8Array },
): Verb<KeyRecord> {
  const row = {
    project_id: key.projectId,
    key_id: key.keyId,
    role: key.role,
    secret_hash: key.secretHash,
    created_at: context.now(),
  };
  yield* context.db.send(
    'INSERT INTO keys (project_id, key_id, role, secret_hash, created_at) VALUES (?, ?, ?, ?, ?)',
    row.project_id,
    row.key_id,
    row.role,
    row.secret_hash,
    row.created_at,
  );
  return keyRecord(row);
}

export function* listKeys({ db }: Context): Verb<KeyRecord[]> {
  return (yield* db.all<KeyRow>('SELECT * FROM keys ORDER BY key_id')).map(keyRecord);
}

export function* deleteKey({ db }: Context, keyId: string): Verb<boolean> {
  return (yield* db.run('DELETE FROM keys WHERE key_id = ?', keyId)) === 1;
}

export function* findKey({ db }: Context, keyId: string): Verb<KeyFacts | null> {
  const row = yield* db.get<KeyRow>('SELECT * FROM keys WHERE key_id = ?', keyId);
  if (row === undefined) return null;
  return { keyId, projectId: row.project_id, role: row.role, secretHash: row.secret_hash };
}

/** Until owners have accounts, every host belongs to the operator who made its join token. */
function* ensureOwner(context: Context): Verb<string> {
  const { db } = context;
  const found = yield* db.get<{ owner_id: string }>("SELECT owner_id FROM owners WHERE name = 'operator'");
  if (found !== undefined) return found.owner_id;
  const ownerId = newId(context, 'owner');
  yield* db.send("INSERT INTO owners (owner_id, name, created_at) VALUES (?, 'operator', ?)", ownerId, context.now());
  return ownerId;
}

export function* createJoinToken(context: Context, token: { hash: Uint8Array; ttlMs: number }): Verb<number> {
  const nowMs = context.now();
  const expiresAtMs = nowMs + token.ttlMs;
  yield* context.db.send('DELETE FROM join_tokens WHERE expires_at < ? AND used_by IS NULL', nowMs);
  yield* context.db.send(
    'INSERT INTO join_tokens (token_hash, owner_id, created_at, expires_at) VALUES (?, ?, ?, ?)',
    token.hash,
    yield* ensureOwner(context),
    nowMs,
    expiresAtMs,
  );
  return expiresAtMs;
}

interface WorkerRow {
  readonly worker_id: string;
  readonly name: string;
  readonly driver: string;
  readonly isolation: IsolationClass;
  readonly cpus: number;
  readonly memory_mib: number;
  readonly disk_mib: number;
  readonly sandbox_overhead_mib: number;
  readonly egress: 0 | 1;
  readonly daemon_version: string;
  readonly platform: string;
  readonly joined_at: number;
  readonly connected_at: number | null;
  readonly last_beat_at: number | null;
  readonly drained_at: number | null;
  readonly allowance: number;
  readonly server_id: string | null;
  readonly session_id: string | null;
}

export function* listWorkers({ db }: Context): Verb<StoredWorker[]> {
  return (yield* db.all<WorkerRow>('SELECT * FROM workers ORDER BY worker_id')).map((row) => ({
    workerId: row.worker_id,
    name: row.name,
    capabilities: {
      driver: row.driver,
      isolation: row.isolation,
      cpus: row.cpus,
      memoryMiB: row.memory_mib,
      diskMiB: row.disk_mib,
      sandboxOverheadMiB: row.sandbox_overhead_mib,
      egress: row.egress === 1,
    },
    daemonVersion: row.daemon_version,
    platform: row.platform,
    joinedAtMs: row.joined_at,
    connectedAtMs: row.connected_at,
    lastBeatAtMs: row.last_beat_at,
    drainedAtMs: row.drained_at,
    allowance: row.allowance,
    serverId: row.server_id,
    sessionId: row.session_id,
  }));
}

interface KnownRow {
  readonly worker_id: string;
  readonly session_id: string | null;
  readonly server_id: string | null;
  readonly instance: string | null;
}

/** Whether another daemon has a session at another server that is there. At the same server, that judges by whether it hears it. */
function* isAnothers(
  { db }: Context,
  known: KnownRow,
  { serverId = null, instance = null }: SessionHello,
): Verb<boolean> {
  const { server_id: other } = known;
  if (known.session_id === null || other === null || other === serverId) return false;
  if (instance === null || known.instance === null || known.instance === instance) return false;
  return (yield* db.get('SELECT 1 FROM servers WHERE server_id = ?', other)) !== undefined;
}

export function* openSession(context: Context, hello: SessionHello): Verb<SessionOpened | SessionRefused> {
  const { db } = context;
  const known = yield* db.get<KnownRow>(
    'SELECT worker_id, session_id, server_id, instance FROM workers WHERE public_key = ?',
    hello.publicKey,
  );
  if (known !== undefined && (yield* isAnothers(context, known, hello))) return { kind: 'duplicate' };
  const workerId = known?.worker_id ?? newId(context, 'worker');
  if (known === undefined) {
    if (hello.joinTokenHash === null) return { kind: 'unknown_key' };
    const token = yield* db.get<{ owner_id: string }>(
      'SELECT owner_id FROM join_tokens WHERE token_hash = ? AND used_by IS NULL AND expires_at > ?',
      hello.joinTokenHash,
      context.now(),
    );
    if (token === undefined) return { kind: 'token_invalid' };
    yield* db.send('UPDATE join_tokens SET used_by = ? WHERE token_hash = ?', workerId, hello.joinTokenHash);
    yield* insertWorker(context, workerId, token.owner_id, hello);
  }
  yield* updateWorker(context, workerId, hello);
  return { kind: 'opened', workerId, ...(yield* reconcile(context, workerId, hello)) };
}

function* insertWorker(context: Context, workerId: string, ownerId: string, hello: SessionHello): Verb<void> {
  yield* context.db.send(
    `INSERT INTO workers (worker_id, owner_id, trust_class, public_key, name, driver, isolation, cpus, memory_mib, disk_mib,
       sandbox_overhead_mib, daemon_version, platform, joined_at)
     VALUES (?, ?, 'standard', ?, '', '', '', 0, 0, 0, 0, '', '', ?)`,
    workerId,
    ownerId,
    hello.publicKey,
    context.now(),
  );
}

function* updateWorker(context: Context, workerId: string, hello: SessionHello): Verb<void> {
  const { capabilities } = hello;
  const nowMs = context.now();
  yield* context.db.send(
    `UPDATE workers SET name = ?, driver = ?, isolation = ?, cpus = ?, memory_mib = ?, disk_mib = ?, sandbox_overhead_mib = ?, egress = ?,
       daemon_version = ?, platform = ?, session_id = ?, server_id = ?, blob_token = ?, instance = ?, connected_at = ?, last_beat_at = ?
     WHERE worker_id = ?`,
    hello.name,
    capabilities.driver,
    capabilities.isolation,
    capabilities.cpus,
    capabilities.memoryMiB,
    capabilities.diskMiB,
    capabilities.sandboxOverheadMiB,
    Number(capabilities.egress),
    hello.daemonVersion,
    hello.platform,
    hello.sessionId,
    hello.serverId ?? null,
    hello.blobTokenHash ?? null,
    hello.instance ?? null,
    nowMs,
    nowMs,
    workerId,
  );
}

/** What was committed to the worker, held against what it says it has. */
function* reconcile(
  context: Context,
  workerId: string,
  hello: SessionHello,
): Verb<Omit<SessionOpened, 'kind' | 'workerId'>> {
  const had = new Set((yield* liveOfWorker(context, workerId)).map(({ attemptId }) => attemptId));
  const readopted: Readopted[] = [];
  for (const item of hello.inventory) {
    if (had.has(item.attemptId)) continue;
    const one = yield* readopt(context, workerId, hello.sessionId, item);
    if (one !== null) readopted.push(one);
  }
  const inventory = new Set(hello.inventory.map(({ attemptId }) => attemptId));
  const resume: LiveAttemptRow[] = [];
  const requeued: LiveAttemptRow[] = [];
  const lost: LiveAttemptRow[] = [];
  for (const attempt of yield* liveOfWorker(context, workerId)) {
    // The worker may have come back with another driver.
    const mayBegin = attempt.state !== 'assigned' || canRun(hello.capabilities, attempt);
    if (mayBegin && inventory.delete(attempt.attemptId)) {
      yield* context.db.send(
        'UPDATE attempts SET session_id = ? WHERE project_id = ? AND execution_id = ? AND attempt_id = ?',
        hello.sessionId,
        attempt.projectId,
        attempt.executionId,
        attempt.attemptId,
      );
      resume.push({ ...attempt, sessionId: hello.sessionId });
    } else if ((yield* giveUp(context, attempt, null)) === 'requeued') {
      requeued.push({ ...attempt, state: 'queued', workerId: null, sessionId: null });
    } else {
      lost.push(attempt);
    }
  }
  const revoke = [...inventory];
  const late: string[] = [];
  for (const attemptId of revoke) {
    if (yield* isEndMissing(context, attemptId, workerId)) late.push(attemptId);
  }
  return { resume, readopted, requeued, lost, revoke, late };
}

export function* closeSession({ db }: Context, workerId: string, sessionId: string, lastBeatAtMs: number): Verb<void> {
  yield* db.send(
    'UPDATE workers SET session_id = NULL, last_beat_at = ? WHERE worker_id = ? AND session_id = ?',
    lastBeatAtMs,
    workerId,
    sessionId,
  );
}

export function* mayFetchBlob(context: Context, blobTokenHash: string, digest: string): Verb<boolean | null> {
  const session = yield* context.db.get<{ worker_id: string; session_id: string }>(
    'SELECT worker_id, session_id FROM workers WHERE blob_token = ? AND session_id IS NOT NULL',
    blobTokenHash,
  );
  if (session === undefined) return null;
  const attempts = yield* liveOfWorker(context, session.worker_id);
  return attempts.some(({ sessionId, blobs }) => sessionId === session.session_id && blobs.includes(digest));
}

export function* recordBeat({ db }: Context, workerId: string, sessionId: string, atMs: number): Verb<void> {
  yield* db.send(
    'UPDATE workers SET last_beat_at = ? WHERE worker_id = ? AND session_id = ?',
    atMs,
    workerId,
    sessionId,
  );
}
