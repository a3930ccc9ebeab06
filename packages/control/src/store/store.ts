import type {
  AttemptEnded,
  Network,
  AttemptState,
  AttemptStream,
  Capabilities,
  ExecutionList,
  ExecutionListQuery,
  ExecutionRecord,
  ExecutionState,
  FunctionError,
  FunctionRecord,
  InputFile,
  FunctionSource,
  IsolationClass,
  KeyRecord,
  KeyRole,
  LateEnd,
  OfStreams,
  Outcome,
  RetryPolicy,
  StreamEnd,
  TaskFile,
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
export interface Store extends ServersStore, AccessStore, FunctionStore, BuildStore, ExecutionStore, AttemptStore {
  /** False while writes fail. It tries one when it has to, and never rejects. */
  isWritable(): Promise<boolean>;
  /** Commits what was asked for; nothing may be asked after it. */
  close(): Promise<void>;
}

/** One of the servers that use the database, for one life of its process. */
export interface ServerFacts {
  readonly serverId: string;
  /** Of its data directory. */
  readonly directoryId: string;
  /** Where it keeps blobs. */
  readonly blobs: string;
}

/** What a worker has, by what its attempts were given. */
export interface WorkerLoad {
  readonly workerId: string;
  readonly attempts: number;
  readonly cpus: number;
  readonly memoryMiB: number;
}

export interface StoredServer {
  readonly serverId: string;
  readonly blobs: string;
  /** Changes while it lives. */
  readonly beat: number;
}

/** Where several servers use one database; one that is alone needs none of it. */
export interface ServersStore {
  /** The server is there from now on, unless there are some that keep blobs elsewhere, which are given: then it is not. */
  joinServers(server: ServerFacts): Promise<StoredServer[]>;
  /** It lives. Also makes one anew that was taken for gone. */
  beatServer(server: ServerFacts): Promise<void>;
  leaveServers(serverId: string): Promise<void>;
  listServers(): Promise<StoredServer[]>;
  /**
   * Removes servers that are gone, unless they have beaten since, and gives the server all workers that have something and no server that is there. What
   * they had open is fenced off.
   *
   * @returns what those workers have
   */
  claimWorkers(serverId: string, gone: readonly Pick<StoredServer, 'serverId' | 'beat'>[]): Promise<LiveAttemptRow[]>;
  /** Ids of queued attempts of all projects, in their order, after the one that is given; the empty one comes before all. */
  listQueuedIds(after: string, limit: number): Promise<string[]>;
  /** Those of them that have not ended. */
  loadAttempts(attemptIds: readonly string[]): Promise<LiveAttemptRow[]>;
  /**
   * Nobody seems to need the blob. It may be removed (`remove`) when that has been so for hours, by who is told so, and nobody else; who keeps the same bytes
   * waits until that is over.
   */
  condemnBlob(digest: string): Promise<'needed' | 'condemned' | 'remove'>;
  /** The blob is about to be needed. False while it is being removed. */
  spareBlob(digest: string): Promise<boolean>;
  /** It is removed, or was not. */
  forgetCondemnedBlob(digest: string): Promise<void>;
  /** Of attempts whose worker this server sees to, those that are to be stopped. */
  listCancelRequested(serverId: string): Promise<string[]>;
  /** Of workers that have something. */
  listWorkerLoads(): Promise<WorkerLoad[]>;
  /** Whether the open session that the token's hash is of may have the blob; null for no such session. */
  mayFetchBlob(blobTokenHash: string, digest: string): Promise<boolean | null>;
}

/** Facts of a project that a request acts within. */
export interface KeyFacts {
  readonly keyId: string;
  readonly projectId: string;
  readonly role: KeyRole;
  readonly secretHash: Uint8Array;
}

export interface AccessStore {
  /**
   * Which history this is: another one (`isNew`) when it is said to be restored, or when the marker that was found beside the store is not its own. `next` is the
   * marker from now on, and `found` holds until it is there. Where several servers use the store, each has a marker in its data directory, and all are known
   * by one id, the first one's own.
   */
  claimIncarnation(claim: {
    /** Null where one server uses the store. */
    readonly server?: ServerFacts | null;
    readonly found: string | null;
    readonly restored: boolean;
    readonly next: string;
  }): Promise<{ readonly incarnation: string; readonly isNew: boolean; readonly serverId: string | null }>;
  /** The marker from now on; `found` holds until it is there. */
  advanceMarker(found: string, next: string, directoryId?: string | null): Promise<void>;
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
  /** A drained worker is assigned nothing. @returns since when it is so; null for no such worker */
  setDrained(workerId: string, drained: boolean): Promise<{ readonly drainedAtMs: number | null } | null>;
  /** The worker has earned that; less than it had changes nothing. */
  recordAllowance(workerId: string, allowance: number): Promise<void>;
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
  /** Since when the operator gives it nothing more. */
  readonly drainedAtMs: number | null;
  /** How many attempts it may have at once where trust is earned, by what has succeeded there. */
  readonly allowance: number;
  /** Who has its session, or had it last, where there may be several servers. */
  readonly serverId: string | null;
  /** The session that is open. */
  readonly sessionId: string | null;
}

export interface SessionHello {
  /** Who has the session, where there may be several servers. */
  readonly serverId?: string | null;
  /** Of the daemon's process. */
  readonly instance?: string | null;
  /** Of what it fetches blobs with, likewise. */
  readonly blobTokenHash?: string | null;
  readonly sessionId: string;
  readonly publicKey: string;
  readonly joinTokenHash: Uint8Array | null;
  readonly name: string;
  readonly daemonVersion: string;
  readonly platform: string;
  readonly capabilities: Capabilities;
  readonly inventory: readonly InventoryItem[];
}

/** What a worker has of an attempt. */
export interface InventoryItem {
  readonly attemptId: string;
  /** From which byte on it has what each stream held; null for from as far as was acknowledged. */
  readonly heldFrom: OfStreams<number> | null;
}

export interface SessionRefused {
  /** `duplicate`: another daemon with the worker's key has a session at another server. */
  readonly kind: 'unknown_key' | 'token_invalid' | 'duplicate';
}

export interface SessionOpened {
  readonly kind: 'opened';
  readonly workerId: string;
  /** In the inventory and still this worker's: they go on, in the new session. Not what it has yet to accept and cannot isolate any more. */
  readonly resume: readonly LiveAttemptRow[];
  /** Those of them that had been given up. */
  readonly readopted: readonly Readopted[];
  /** In the inventory and not, or no longer, this worker's. */
  readonly revoke: readonly string[];
  /** Those of them that ended without their worker, whose report is wanted as evidence. */
  readonly late: readonly string[];
  /** Committed to this worker, never accepted, and not in its inventory or too strong a class for it now: queued again. */
  readonly requeued: readonly LiveAttemptRow[];
  /** Accepted by this worker and not in its inventory: ended as lost. */
  readonly lost: readonly LiveAttemptRow[];
}

/** An attempt that goes on in the place of the one that was queued after it. */
export interface Readopted {
  readonly attemptId: string;
  readonly executionId: string;
  /** Has ended. */
  readonly superseded: string;
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
  /** How many executions of the function may have a worker at once, from now on; null for any number. */
  readonly maxConcurrent?: number | null | undefined;
  /** None if not given. */
  readonly network?: Network;
  /** Running it twice does no harm; not so if not given. */
  readonly idempotent?: boolean;
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
  /** 0 if not given. */
  readonly priority?: number;
  readonly concurrency?: ConcurrencyKey | null;
  /** `QUEUE_TTL_MS` if not given. */
  readonly queueTtlMs?: number;
  readonly idempotencyKey: string | null;
}

export interface CreatedExecution {
  readonly executionId: string;
  /** Null when an earlier request with the same idempotency key had made it. */
  readonly queued: QueuedAttempt | null;
}

/** An execution that is yet to be made, for which a worker has room. */
export interface PlacedArrival {
  /** Of its first attempt, made by the asker. */
  readonly attemptId: string;
  /** Whose version it was placed by. */
  readonly function: { readonly id: string; readonly version: number };
  readonly worker: { readonly workerId: string; readonly sessionId: string };
  /** As of `assign`. */
  readonly shared: SharedAssign | null;
}

export interface CreatedAssigned extends CreatedExecution {
  /** Null when its attempt is queued. */
  readonly task: AssignedTask | null;
}

export interface AttemptKey {
  readonly projectId: string;
  readonly attemptId: string;
}

/** What an execution shares with others of its project, and how many of them may have a worker at once for it to start. */
export interface ConcurrencyKey {
  readonly key: string;
  readonly limit: number;
}

export interface QueuedAttempt extends AttemptKey {
  readonly executionId: string;
  /** The newest version, and how many executions of the function may have a worker at once as it says; null for any number. */
  readonly function: { readonly id: string; readonly version: number; readonly limit: number | null };
  readonly priority: number;
  readonly concurrency: ConcurrencyKey | null;
  readonly memoryMiB: number;
  readonly cpus: number;
  /** What its function requires. */
  readonly isolation: IsolationClass;
  /** It has a network. */
  readonly egress: boolean;
  /** Digests that its worker may fetch: image, code, and what else it needs. */
  readonly blobs: readonly string[];
  /** About how long its assignment is. */
  readonly taskBytes: number;
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

export interface NewBatch {
  readonly projectId: string;
  /** The keys of its executions are null. */
  readonly executions: readonly NewExecution[];
  readonly idempotencyKey: string | null;
}

export interface CreatedBatch {
  readonly batchId: string;
  /** Empty when an earlier request with the same idempotency key had made it. */
  readonly queued: readonly QueuedAttempt[];
}

export interface StoredBatch {
  readonly batchId: string;
  readonly createdAtMs: number;
  /** In the order of the request. */
  readonly executions: readonly {
    readonly executionId: string;
    readonly state: ExecutionState;
    readonly endedAtMs: number | null;
  }[];
}

export interface ExecutionStore {
  /**
   * Admission, idempotency and the first attempt in one transaction; all of the list or none.
   *
   * @throws CocoreError `function_not_found`, `blob_not_found`, `input_too_large`, `quota_exceeded`, `idempotency_conflict`
   */
  createExecutions(executions: readonly NewExecution[], limits: Limits): Promise<CreatedExecution[]>;
  /**
   * As `createExecutions` and `assign`, at once. What cannot be assigned so is queued: the worker's session is another by now or drained, a limit is
   * reached, or the function's newest version is another.
   */
  createAssigned(execution: NewExecution, limits: Limits, placed: PlacedArrival): Promise<CreatedAssigned>;
  /** As `createExecutions`; what is thrown about one of them names its `index` in the details. */
  createBatch(batch: NewBatch, limits: Limits): Promise<CreatedBatch>;
  readBatch(projectId: string, batchId: string): Promise<StoredBatch | null>;
  /**
   * Removes input, attempts and output of executions that ended longer ago than is kept, and of the oldest while their project has more output than is
   * kept: at most `limit` of them. What is left of one still answers. @returns how many there were
   */
  expireExecutions(retention: Retention, limit: number): Promise<number>;
  /** The next attempts, by id, at most `limit`, that were removed so and whose files and objects may be there still. */
  listRemovedOutputs(after: string, limit: number): Promise<RemovedOutput[]>;
  /** Their files and objects are gone. */
  forgetRemovedOutputs(attemptIds: readonly string[]): Promise<void>;
  /**
   * The next attempts, by id, at most `limit`, that have more output than the store keeps by itself, which is not in the archive, and that nothing is
   * added to any more: their executions have ended. From now on objects of them may be there.
   */
  beginArchiving(after: string, limit: number): Promise<LargeOutput[]>;
  /** Its output is in the archive: beyond the first bytes, the store has none of it any more. False when the attempt is gone. */
  recordArchived(attempt: AttemptKey): Promise<boolean>;
  /** Idempotency keys that hold no more, at most `limit` of them. @returns how many there were */
  forgetIdempotencyKeys(limit: number): Promise<number>;
  readExecution(projectId: string, executionId: string): Promise<ExecutionRecord | null>;
  /** Newest first. A page of large records may hold fewer than its limit. @throws CocoreError `function_not_found`, `batch_not_found` */
  listExecutions(projectId: string, query: ExecutionListQuery): Promise<ExecutionList>;
  requestCancel(projectId: string, executionId: string): Promise<CancelRequested | null>;
  /**
   * As `requestCancel`, for the next of those that have not ended and that the filter takes: at most `limit`, in the order of their ids, after the id
   * that is given; the empty one comes before all.
   *
   * @throws CocoreError `function_not_found`, `batch_not_found`
   */
  requestCancelOf(projectId: string, filter: LiveFilter, after: string, limit: number): Promise<CancelledPage>;
  /** How many have not ended that the filter takes. @throws CocoreError as `requestCancelOf` */
  countLive(projectId: string, filter: LiveFilter): Promise<number>;
  /** Ends what has waited longer than its queue time, at most `limit` of them. */
  expireQueue(limit: number): Promise<{ readonly executionId: string; readonly attemptId: string }[]>;
}

/** Where output is kept elsewhere too, the store itself keeps so much of each stream at most. */
export const INLINE_OUTPUT_BYTES = 16 * 1024;

export interface LargeOutput extends AttemptKey {
  /** Committed. */
  readonly bytes: OfStreams<number>;
}

export interface RemovedOutput {
  readonly attemptId: string;
  /** Objects of it may be in the archive. */
  readonly inArchive: boolean;
}

/** How long what has ended is kept whole. */
export interface Retention {
  readonly maxAgeMs: number;
  /** Of all ended attempts of one project. */
  readonly maxOutputBytes: number;
}

/** All that is given must hold. */
export interface LiveFilter {
  /** Id or name. */
  readonly function?: string | undefined;
  readonly batch?: string | undefined;
  readonly state?: 'open' | 'running' | undefined;
  readonly createdBeforeMs: number;
}

export interface CancelledPage {
  readonly executions: readonly (CancelRequested & { readonly executionId: string })[];
  /** Where the next page begins; null when there is none. */
  readonly next: string | null;
}

export interface CancelRequested {
  readonly result: 'cancelled' | 'requested' | 'already_requested' | 'already_ended';
  /** The attempt that was live before the request. */
  readonly attempt: { readonly attemptId: string; readonly workerId: string | null } | null;
}

/** What a report came to. `conflict`: it contradicts what is recorded, and the first stays. */
export type Reported = 'recorded' | 'repeated' | 'stale' | 'conflict';

/** What an end came to. `incomplete`: output of it is still to be committed. */
export type ReportedAtEnd = Exclude<Reported, 'recorded'> | EndRecorded | 'incomplete';

/** An end that is recorded. `goes_on`: another attempt follows it. A record: of the execution, which has ended with it, where that was asked for. */
export type EndRecorded = 'recorded' | 'goes_on' | ExecutionRecord;

/** As many have a worker as may, of the function, which is as told here, or of the concurrency key. */
export interface Capped {
  readonly capped: QueuedAttempt['function'];
}

/** Where several servers may assign. */
export interface SharedAssign {
  /** What limits the attempt, as the asker knows it. */
  readonly caps: Pick<QueuedAttempt, 'function' | 'concurrency'>;
  /** Another may be asking for the same attempt now: then nobody waits, and one of them is answered null. */
  readonly isContended: boolean;
}

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
  readonly network: Network;
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
  readonly usage: AttemptEnded['usage'];
  readonly signature: string;
  /** The committed bytes hash to what the report claims. */
  readonly intact: boolean;
  /** Nothing more will come: an end whose output is not whole is an end all the same. */
  readonly final: boolean;
  readonly beat: Beat | null;
  /** Somebody waits for the execution's end: its record is wanted. */
  readonly isAwaited: boolean;
}

/** What a whole life came to. `untold`: it cannot be told at once. */
export type ReportedLifeAs = EndRecorded | 'stale' | 'untold';

/** All that a worker has to say of an attempt, from its acceptance on, told at once. */
export interface ReportedLife {
  readonly sandbox: { readonly driver: string; readonly isolation: IsolationClass };
  /** Its process was started. */
  readonly isStarted: boolean;
  readonly growth: readonly OutputGrowth[];
  readonly end: ReportedEnd;
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
   * Null when the attempt is not queued any more. `stale`: the session is not the worker's any more, or the worker is drained, and the attempt may
   * still be queued. With `shared`, limits are counted here, for all servers.
   *
   * @throws when the worker's class is weaker than the function requires: whoever placed it there has a fault
   */
  assign(
    attempt: AttemptKey,
    worker: { workerId: string; sessionId: string },
    shared?: SharedAssign | null,
  ): Promise<AssignedTask | Capped | 'stale' | null>;
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
  recordEnd(attempt: AttemptKey, sessionId: string, end: ReportedEnd): Promise<ReportedAtEnd>;
  /** As `recordAccepted`, `recordStarted`, `recordOutput` and `recordEnd`, at once. Where it is `untold`, nothing is changed. */
  recordLife(attempt: AttemptKey, sessionId: string, life: ReportedLife): Promise<ReportedLifeAs>;
  /** What a worker hears that tells the end of an attempt which is not live any more. `late`: it ended without its worker, whose word is missing. */
  compareEnd(attemptId: string, workerId: string, signature: string): Promise<Exclude<Reported, 'recorded'> | 'late'>;
  /** Keeps that word, once: evidence, which changes nothing else. */
  recordLateEnd(attemptId: string, workerId: string, end: Omit<LateEnd, 'receivedAt'>): Promise<Reported>;
  /** The worker is given up on: accepted attempts end, others are queued again. Only while the worker still has it, in this session where one is given. */
  recordLost(
    attempt: AttemptKey,
    workerId: string,
    beat: Beat | null,
    sessionId?: string | null,
  ): Promise<'ended' | 'requeued' | 'stale'>;
  /** Ends what its worker did not. False when no worker has the attempt, in this session where one is given. */
  endByControl(attempt: AttemptKey, why: ControlEnd, beat: Beat | null, sessionId?: string | null): Promise<boolean>;
  /** Ends what no worker could run, with the reason in words. False when the attempt is not queued any more. */
  endUnplaceable(attempt: AttemptKey, message: string): Promise<boolean>;
  /** Inline output of one stream from `offset`, in order; the next pieces only, none where there is no more. */
  readInline(attempt: AttemptKey, stream: AttemptStream, offset: number): Promise<Uint8Array[]>;
  recordBeat(workerId: string, sessionId: string, atMs: number): Promise<void>;
}
