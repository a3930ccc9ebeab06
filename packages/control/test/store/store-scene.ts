import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  CocoreError,
  type ExecutionRecord,
  type FunctionRecord,
  type IsolationClass,
  type OfStreams,
  ofStreams,
} from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import type { NewExecution, QueuedAttempt, ReportedEnd, SessionOpened, Store } from '../../src/store/store.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { BASH_FILE } from '../support/version-fields.ts';

/** Opens the store at a path, which may exist; times come from the clock. */
export type StoreFactory = (path: string, now: () => number) => Promise<Store>;

export const BLOB = { digest: `sha256:${'a'.repeat(64)}`, bytes: 10 };
export const EMPTY = `sha256:${createHash('sha256').digest('hex')}`;
export const CAPABILITIES = {
  driver: 'fake',
  isolation: 'container',
  cpus: 8,
  memoryMiB: 8192,
  diskMiB: 1024,
  sandboxOverheadMiB: 16,
  egress: false,
} as const;
export const SANDBOX = { driver: 'fake', isolation: 'container' } as const;

export function reportedEnd(change: Partial<ReportedEnd> = {}): ReportedEnd {
  const stream = { bytes: 0, sha256: EMPTY, truncated: false };
  return {
    outcome: { kind: 'exited', code: 0 },
    message: null,
    streams: ofStreams(() => stream),
    artifactFiles: 0,
    result: null,
    error: null,
    usage: { host: null, guest: null },
    signature: 'first',
    intact: true,
    final: false,
    beat: null,
    isAwaited: false,
    ...change,
  };
}

/** A store of its own for each test, with a project and the function `add`. */
export class StoreScene {
  readonly #open: StoreFactory;
  readonly #makePath: () => { path: string } & Disposable;
  #place!: { path: string } & Disposable;
  clock!: ManualClock;
  store!: Store;
  projectId!: string;

  constructor(open: StoreFactory, makePath: () => { path: string } & Disposable) {
    this.#open = open;
    this.#makePath = makePath;
  }

  async begin(): Promise<void> {
    this.#place = this.#makePath();
    this.clock = new ManualClock();
    this.store = await this.#open(this.#place.path, this.clock.nowMs);
    this.projectId = await this.store.ensureProject('default');
    await this.deploy('add');
  }

  async reopen(): Promise<void> {
    await this.store.close();
    this.store = await this.#open(this.#place.path, this.clock.nowMs);
  }

  async end(): Promise<void> {
    await this.store.close();
    this.#place[Symbol.dispose]();
  }

  readonly deploy = (
    functionName: string,
    project = this.projectId,
    isolation: IsolationClass = 'container',
    image = BLOB,
    maxConcurrent: number | null = null,
  ): Promise<FunctionRecord> =>
    this.store.createFunctionVersion(
      {
        projectId: project,
        name: functionName,
        ...BASH_FILE,
        code: BLOB,
        image,
        memoryMiB: 256,
        cpus: 1,
        timeoutMs: 60_000,
        outputLimitBytes: 1000,
        env: {},
        isolation,
        maxConcurrent,
      },
      DEFAULT_LIMITS,
    );

  readonly request = (change: Partial<NewExecution> = {}): NewExecution => ({
    projectId: this.projectId,
    function: 'add',
    args: ['4', '9'],
    env: {},
    stdin: null,
    files: [],
    timeoutMs: null,
    outputLimitBytes: null,
    idempotencyKey: null,
    ...change,
  });

  readonly create = async (change: Partial<NewExecution> = {}): Promise<QueuedAttempt> => {
    const [created] = await this.store.createExecutions([this.request(change)], DEFAULT_LIMITS);
    return created!.queued!;
  };

  readonly join = async (
    publicKey: string,
    sessionId: string,
    inventory: string[] = [],
    isolation: IsolationClass = 'container',
    heldFrom: OfStreams<number> | null = null,
  ): Promise<SessionOpened> => {
    const hash = createHash('sha256').update(publicKey).digest();
    await this.store.createJoinToken({ hash, ttlMs: 60_000 }).catch(() => undefined);
    const opened = await this.store.openSession({
      sessionId,
      publicKey,
      joinTokenHash: hash,
      name: publicKey,
      daemonVersion: '1',
      platform: 'test',
      capabilities: { ...CAPABILITIES, isolation },
      inventory: inventory.map((attemptId) => ({ attemptId, heldFrom })),
    });
    assert.equal(opened.kind, 'opened');
    return opened;
  };

  readonly running = async (
    sessionId = 's1',
    publicKey = 'k1',
  ): Promise<{ attempt: QueuedAttempt; workerId: string }> => {
    const attempt = await this.create();
    const { workerId } = await this.join(publicKey, sessionId);
    const task = await this.store.assign(attempt, { workerId, sessionId });
    assert.ok(task !== null && task !== 'stale');
    assert.equal((await this.store.recordAccepted(attempt, sessionId, SANDBOX)).reported, 'recorded');
    return { attempt, workerId };
  };

  readonly read = async (attempt: { executionId: string }): Promise<ExecutionRecord> =>
    (await this.store.readExecution(this.projectId, attempt.executionId))!;

  /** Of the refusal; `none` where there is none. */
  readonly code = async (work: Promise<unknown>): Promise<string> => {
    try {
      await work;
    } catch (error) {
      if (error instanceof CocoreError) return error.code;
      throw error;
    }
    return 'none';
  };
}
