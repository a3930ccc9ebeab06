import type {
  AttemptState,
  AttemptStream,
  Capabilities,
  ExecutionList,
  ExecutionListQuery,
  ExecutionRecord,
  FunctionError,
  FunctionRecord,
  InputFile,
  FunctionSource,
  IsolationClass,
  KeyRecord,
  KeyRole,
  OfStreams,
  Outcome,
  RetryPolicy,
  StreamEnd,
  TaskFile,
  UsageRecord,
  BlobRef,
  ContainerUser,
} from '@cocore/protocol';
import type { Limits } from '../admission.ts';

/**
 * What the control server keeps. Each verb is one transaction: when its promise resolves the change is durable, when it
 * rejects nothing has changed. There is no other way to group writes, and no connection or transaction leaks out.
 *
 * A verb about an attempt is guarded by the attempt's id and, where a worker asks, by the session's id: a write from a session that is
 * no longer the attempt's answers `stale` and changes nothing. Times are set by the store's own clock.
 */
export interface Store extends AccessStore, FunctionStore, BuildStore, ExecutionStore, AttemptStore {
  /** False while writes fail. It tries one when it has to, and never rejects. */
  isWritable(): Promise<boolean>;
  /** Commits what was asked for; nothing may be asked after it. */
  close(): Promise<void>;
}

/** Facts of a project that a request acts within. */
export interface KeyFacts {
  readonly keyId: string;
  readonly projectId: string;
  readonly role: KeyRole;
  readonly secretHash: Uint8Array;
}

export interface AccessStore {
  /** The project of this name, made when there is none. */
  ensureProject(name: string): Promise<string>;
  createKey(key: { projectId: string; role: KeyRole; keyId: string; secretHash: Uint8Array }): Promise<KeyRecord>;
  /** Of all projects. */
  listKeys(): Promise<KeyRecord[]>;
  /** False when there is no such key. */
  deleteKey(keyId: string): Promise<boolean>;
  findKey(keyId: string): Promise<KeyFacts | null>;
  /** Kept by hash only. @returns when it expires */
  createJoinToken(token: { hash: Uint8Array; ttlMs: number }): Promise<number>;
  /** The workers, by id. */
  listWorkers(): Promise<StoredWorker[]>;
  /**
   * Opens a session: the worker's earlier session is fenced off, and what the server committed is held against what the worker has. A token is used up by
   * the first session of a new identity, in the same transaction.
   */
  openSession(hello: SessionHello): Promise<SessionOpened | SessionRefused>;
  /** Only when it is still the worker's session. */
  closeSession(workerId: string, sessionId: string, lastBeatAtMs: number): Promise<void>;
}

export interface StoredWorker {
  readonly workerId: string;
  readonly name: string;
  readonly capabilities: Capabilities;
  readonly daemonVersion: string;
  readonly platform: string;
  readonly joinedAtMs: number;
  readonly connectedAtMs: number | null;
  readonly lastBeatAtMs: number | null;
}

export interface SessionHello {
  readonly sessionId: string;
  readonly publicKey: string;
  readonly joinTokenHash: Uint8Array | null;
  readonly name: string;
  readonly daemonVersion: string;
  readonly platform: string;
  readonly capabilities: Capabilities;
  readonly inventory: readonly string[];
}

export interface SessionRefused {
  readonly kind: 'unknown_key' | 'token_invalid';
}

export interface SessionOpened {
  readonly kind: 'opened';
  readonly workerId: string;
  /** In the inventory and still this worker's: they go on, in the new session. Not what it has yet to accept and cannot isolate any more. */
  readonly resume: readonly LiveAttemptRow[];
  /** In the inventory and not, or no longer, this worker's. */
  readonly revoke: readonly string[];
  /** Committed to this worker, never accepted, and not in its inventory or too strong a class for it now: queued again. */
  readonly requeued: readonly LiveAttemptRow[];
  /** Accepted by this worker and not in its inventory: ended as lost. */
  readonly lost: readonly LiveAttemptRow[];
}

/** How a version's process is started, decided at its deployment. */
export interface FunctionProcess {
  /** The execution's arguments follow. */
  readonly argv: readonly string[];
  /** The runtime's or the image's own; the function's variables win over them. */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: ContainerUser;
  /** What asks the process to end, such as `SIGTERM`; null where nothing else was said. */
  readonly stopSignal: string | null;
}

export interface NewFunctionVersion {
  readonly projectId: string;
  readonly name: string;
  /** The recipe; null for an image. */
  readonly runtime: string | null;
  readonly source: FunctionSource;
  readonly handler: string | null;
  readonly process: FunctionProcess;
  readonly code: BlobRef;
  readonly image: BlobRef;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly timeoutMs: number;
  readonly outputLimitBytes: number;
  readonly env: Readonly<Record<string, string>>;
  /** The weakest class that it may run in. */
  readonly isolation: IsolationClass;
  readonly retries?: RetryPolicy | null | undefined;
}

export interface FunctionStore {
  /** The function of this name, or its next version. @throws CocoreError `quota_exceeded` */
  createFunctionVersion(version: NewFunctionVersion, limits: Limits): Promise<FunctionRecord>;
  listFunctions(projectId: string): Promise<FunctionRecord[]>;
  /** By id or name. */
  readFunction(projectId: string, idOrName: string): Promise<FunctionRecord | null>;
  /** Gives the project the right to name the digest. @throws CocoreError `quota_exceeded` */
  addBlob(projectId: string, blob: BlobRef, limits: Limits): Promise<void>;
  /** Takes from projects layers that were not used, and their right to blobs that nothing of theirs needs and that they got, so long ago. */
  forgetUnusedBlobs(unused: { readonly layersMs: number; readonly blobsMs: number }): Promise<void>;
  /** Whether a project or a version of any project has the blob. */
  isBlobNeeded(digest: string): Promise<boolean>;
  /** Whether the project may name the digest. */
  hasBlob(projectId: string, digest: string): Promise<boolean>;
}

export interface BuildStore {
  /**
   * An execution that builds for a function of this name. It is of a hidden function, which no user can name.
   *
   * @throws CocoreError `quota_exceeded`
   */
  createBuild(build: NewFunctionVersion, limits: Limits): Promise<CreatedExecution>;
  /** What a build with this key made. @throws CocoreError `quota_exceeded` */
  keepLayer(projectId: string, key: string, blob: BlobRef, limits: Limits): Promise<void>;
  /** Null when there is none. It counts as used now. */
  useLayer(projectId: string, key: string): Promise<BlobRef | null>;
}

export type NewStdin = { readonly inline: Uint8Array } | { readonly blob: string } | null;

export interface NewExecution {
  readonly projectId: string;
  /** Id or name. */
  readonly function: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: NewStdin;
  readonly files: readonly InputFile[];
  readonly timeoutMs: number | null;
  readonly outputLimitBytes: number | null;
  /** Its function's if not given; null for none. */
  readonly retries?: RetryPolicy | null | undefined;
  readonly idempotencyKey: string | null;
}

export interface CreatedExecution {
  readonly executionId: string;
  /** Null when an earlier request with the same idempotency key had made it. */
  readonly queued: QueuedAttempt | null;
}

export interface AttemptKey {
  readonly projectId: string;
  readonly attemptId: string;
}

export interface QueuedAttempt extends AttemptKey {
  readonly executionId: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  /** What its function requires. */
  readonly isolation: IsolationClass;
  /** Digests that its worker may fetch: image, code, and what else it needs. */
  readonly blobs: readonly string[];
  readonly queuedAtMs: number;
  /** When it may be placed; null for at once. */
  readonly notBeforeMs: number | null;
}

/** An attempt that has not ended, as a server that starts, or a worker that comes back, finds it. */
export interface LiveAttemptRow extends QueuedAttempt {
  readonly state: Exclude<AttemptState, 'ended'>;
  readonly workerId: string | null;
  readonly sessionId: string | null;
  readonly assignedAtMs: number | null;
  readonly startedAtMs: number | null;
  readonly deadlineAtMs: number | null;
  readonly cancelRequestedAtMs: number | null;
  readonly timeoutMs: number;
  readonly outputLimitBytes: number;
  readonly artifactsLimitBytes: number;
  /** Committed. */
  readonly bytes: OfStreams<number>;
}

export interface ExecutionStore {
  /**
   * Admission, idempotency and the first attempt in one transaction; all of the list or none.
   *
   * @throws CocoreError `function_not_found`, `blob_not_found`, `input_too_large`, `quota_exceeded`, `idempotency_conflict`
   */
  createExecutions(executions: readonly NewExecution[], limits: Limits): Promise<CreatedExecution[]>;
  readExecution(projectId: string, executionId: string): Promise<ExecutionRecord | null>;
  /** Newest first. A page of large records may hold fewer than its limit. */
  listExecutions(projectId: string, query: ExecutionListQuery): Promise<ExecutionList>;
  requestCancel(projectId: string, executionId: string): Promise<CancelRequested | null>;
  /** Ends what has waited longer than its queue time, at most `limit` of them. */
  expireQueue(limit: number): Promise<{ readonly executionId: string; readonly attemptId: string }[]>;
}

export interface CancelRequested {
  readonly result: 'cancelled' | 'requested' | 'already_requested' | 'already_ended';
  /** The attempt that was live before the request. */
  readonly attempt: { readonly attemptId: string; readonly workerId: string | null } | null;
}

/** What a report came to. `conflict`: it contradicts what is recorded, and the first stays. */
export type Reported = 'recorded' | 'repeated' | 'stale' | 'conflict';

/** All that an assignment's task is made from. */
export interface AssignedTask {
  readonly executionId: string;
  readonly functionName: string;
  readonly functionVersion: number;
  readonly process: FunctionProcess;
  readonly args: readonly string[];
  readonly functionEnv: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string>>;
  readonly image: BlobRef;
  readonly code: BlobRef;
  readonly stdin: { readonly inline: Uint8Array } | BlobRef | null;
  readonly files: readonly TaskFile[];
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly timeoutMs: number;
  readonly outputLimitBytes: number;
  readonly artifactsLimitBytes: number;
}

/**
 * What passed without a word of the worker: a deadline, or the time to deliver the output of an end that it reported; or that its words about the
 * attempt broke the contract again and again.
 */
export type ControlEnd = 'run_deadline' | 'prepare_deadline' | 'output_lost' | 'protocol';

export interface Beat {
  readonly atMs: number;
  readonly agentAgeMs: number | null;
}

export interface ReportedEnd {
  readonly outcome: Outcome;
  readonly message: string | null;
  readonly streams: OfStreams<StreamEnd>;
  readonly artifactFiles: number;
  /** JSON text. */
  readonly result: string | null;
  readonly error: FunctionError | null;
  readonly usage: Omit<UsageRecord, 'control'>;
  readonly signature: string;
  /** The committed bytes hash to what the report claims. */
  readonly intact: boolean;
  /** Nothing more will come: an end whose output is not whole is an end all the same. */
  readonly final: boolean;
  readonly beat: Beat | null;
}

export interface OutputGrowth {
  readonly stream: AttemptStream;
  readonly from: number;
  readonly to: number;
  /** The bytes from `from` on that belong into the store itself. */
  readonly inline: Uint8Array | null;
}

export interface AttemptStore {
  /** Queued attempts and those with a worker, oldest first. */
  loadLive(): Promise<LiveAttemptRow[]>;
  /** The attempt that follows one that has ended; null where its execution has ended too. */
  readNext(ended: AttemptKey & { readonly executionId: string }): Promise<QueuedAttempt | null>;
  /**
   * Null when the attempt is not queued any more. `stale`: the session is not the worker's any more, and the attempt may still be queued.
   *
   * @throws when the worker's class is weaker than the function requires: whoever placed it there has a fault
   */
  assign(attempt: AttemptKey, worker: { workerId: string; sessionId: string }): Promise<AssignedTask | 'stale' | null>;
  recordAccepted(
    attempt: AttemptKey,
    sessionId: string,
    sandbox: { driver: string; isolation: IsolationClass },
  ): Promise<{ reported: Reported; deadlineAtMs: number | null }>;
  /** The attempt goes back to the queue. */
  recordRefused(attempt: AttemptKey, sessionId: string): Promise<Reported>;
  recordStarted(
    attempt: AttemptKey,
    sessionId: string,
    agoMs: number,
  ): Promise<{ reported: Reported; startedAtMs: number | null; deadlineAtMs: number | null }>;
  /** Moves committed lengths; the bytes that are not inline must be durable before. */
  recordOutput(attempt: AttemptKey, sessionId: string, growth: readonly OutputGrowth[]): Promise<Reported>;
  /**
   * Terminal, unless output is still to be committed: then it is `incomplete`, and changes nothing. An end that more output cannot make true, or
   * that is final, is recorded as `output_lost`.
   */
  recordEnd(attempt: AttemptKey, sessionId: string, end: ReportedEnd): Promise<Reported | 'incomplete'>;
  /** What a worker hears that repeats the end of an attempt which is not live any more. */
  compareEnd(attemptId: string, workerId: string, signature: string): Promise<Reported>;
  /** The worker is given up on: accepted attempts end, others are queued again. Only while the worker still has it. */
  recordLost(attempt: AttemptKey, workerId: string, beat: Beat | null): Promise<'ended' | 'requeued' | 'stale'>;
  /** Ends what its worker did not. False when no worker has the attempt. */
  endByControl(attempt: AttemptKey, why: ControlEnd, beat: Beat | null): Promise<boolean>;
  /** Ends what no worker could run, with the reason in words. False when the attempt is not queued any more. */
  endUnplaceable(attempt: AttemptKey, message: string): Promise<boolean>;
  /** Inline output of one stream from `offset`, in order. */
  readInline(attempt: AttemptKey, stream: AttemptStream, offset: number): Promise<Uint8Array[]>;
  recordBeat(workerId: string, sessionId: string, atMs: number): Promise<void>;
}
