import {
  CocoreError,
  MAX_RETRY_BACKOFF_MS,
  MAX_TOLD_BLOBS,
  ofStreams,
  PREPARE_TIMEOUT_MS,
  type ExecutionRecord,
  type FunctionRecord,
  type Outcome,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { EventHub } from '../events.ts';
import type { Metrics } from '../metrics.ts';
import type { OutputStore, StreamLimits } from '../output/output-store.ts';
import { type Placement, Scheduler } from '../scheduler/scheduler.ts';
import type {
  AssignedTask,
  Capped,
  AttemptKey,
  LiveAttemptRow,
  QueuedAttempt,
  Readopted,
  SessionOpened,
  Store,
} from '../store/store.ts';
import type { Others } from '../servers/others.ts';
import { Arrivals } from './arrivals.ts';
import { AssignmentWindow } from './assignment-window.ts';
import { Cancellations } from './cancellations.ts';
import { Drains } from './drains.ts';
import { Elsewhere } from './elsewhere.ts';
import { deadlineUptimeMs, type LiveAttempt, LiveAttempts, NOTHING_HEARD, type WorkerLink } from './live-attempt.ts';
import { itemOf, placeableOf } from './placeable.ts';
import { Reconciliation } from './reconciliation.ts';
import { taskSpec } from './task.ts';
import { WorkerTrust } from './worker-trust.ts';

/** An attempt whose assignment was not answered so often ends: it may be what the workers fail of. */
export const MAX_UNANSWERED = 5;
/** A worker that refused for want of room is asked again after this long, if nothing it had ended before. */
export const REFUSAL_PAUSE_MS = 1_000;

export interface DispatcherParts {
  readonly store: Store;
  readonly output: OutputStore;
  readonly hub: EventHub;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Null where no other server may use the store. */
  readonly others?: Others | null;
  /** New workers begin with little; if not given, they have what they have room for. */
  readonly trustIsEarned?: boolean;
  /** So many random bytes; the system's if not given. */
  readonly random?: (bytes: number) => Uint8Array;
}

/**
 * Brings queued attempts to workers. It owns the scheduler, the table of live attempts and the table of sessions, and keeps the
 * three in step with what the store has committed. Event-driven: whatever may have made room calls `pump`.
 */
export class Dispatcher {
  readonly live = new LiveAttempts();
  readonly scheduler = new Scheduler();
  readonly trust: WorkerTrust;
  readonly arrivals: Arrivals;
  readonly drains: Drains;
  readonly cancellations: Cancellations;
  /** What workers of other servers change in what is said of attempts. */
  readonly elsewhere: Elsewhere;
  /** Follows what other servers change. */
  readonly reconciliation: Reconciliation;
  readonly #parts: DispatcherParts;
  readonly #others: Others | null;
  readonly #links = new Map<string, WorkerLink>();
  /** What waits in the scheduler, or is between the scheduler and the store. */
  readonly #queued = new Map<string, QueuedAttempt>();
  /** Those of them that could not be assigned, and where they stood: they wait for `retry`. */
  readonly #failed = new Map<string, number | undefined>();
  /** Queued in this turn: others are told of what stays. */
  readonly #fresh = new Set<string>();
  /** What waits and others know of. */
  readonly #shared = new Set<string>();
  /** Have ended, and the store could not say what follows; they wait for it too. */
  readonly #unfollowed = new Set<AttemptKey & { readonly executionId: string }>();
  readonly #unansweredTimes = new Map<string, number>();
  readonly #window = new AssignmentWindow(this.scheduler, () => this.pump());
  #pumping = false;
  #stopped = false;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    const { store, hub, clock, log, others = null, trustIsEarned: isEarned = false } = parts;
    this.#others = others;
    const { scheduler, live } = this;
    this.trust = new WorkerTrust({ store, clock, log, scheduler, live, isEarned });
    this.drains = new Drains({
      ...{ store, scheduler, links: this.#links, onChanged: () => this.pump() },
      onSet: (workerId) => others?.tell(['worker', workerId]),
    });
    this.arrivals = new Arrivals({
      ...{ store, clock, scheduler, links: this.#links, window: this.#window, others, random: parts.random },
      onQueued: (attempt) => this.enqueue(attempt),
      onAssigned: this.#assigned.bind(this),
      onPlacement: (placement) => this.#begin(placement),
      onChanged: () => this.pump(),
    });
    const onWithdrawn = this.withdrawn.bind(this);
    const onElsewhere = (attemptId: string) => others?.tell(['look', attemptId]);
    this.cancellations = new Cancellations({ store, live, hub, clock, onWithdrawn, onElsewhere });
    const queued: ReadonlyMap<string, QueuedAttempt> = this.#queued;
    this.elsewhere = new Elsewhere({ scheduler, queued, others });
    this.reconciliation = new Reconciliation({
      ...{ store, clock, live, queued, links: this.#links, drains: this.drains, trust: this.trust },
      onWaits: (row) => {
        this.#enqueue(row);
        this.#shared.add(row.attemptId);
      },
      onWaitsNoMore: (attemptId) => this.#dequeue(attemptId),
      onElsewhere: (attempt) => this.letGo(attempt),
      onChanged: () => this.pump(),
    });
  }

  /**
   * Takes up what an earlier life of the server left: queued attempts, and those that wait for their worker's hello.
   *
   * @param claimed of the latter those that this server sees to; null for all
   */
  async start(claimed: readonly LiveAttemptRow[] | null = null): Promise<void> {
    for (const { workerId, drainedAtMs, allowance } of await this.#parts.store.listWorkers()) {
      this.trust.know(workerId, allowance);
      this.drains.know(workerId, drainedAtMs);
    }
    for (const row of await this.#parts.store.loadLive()) {
      if (row.state === 'queued') this.#enqueue(row);
      else if (claimed === null) this.#adopt(row, null);
      if (this.#others !== null && row.state === 'queued') this.#shared.add(row.attemptId);
    }
    this.claimed(claimed ?? []);
  }

  /** Places nothing any more. */
  stop(): void {
    this.#stopped = true;
  }

  link(workerId: string): WorkerLink | undefined {
    return this.#links.get(workerId);
  }

  get links(): ReadonlyMap<string, WorkerLink> {
    return this.#links;
  }

  /** Workers that are online, here and at other servers. */
  get onlineCount(): number {
    return this.#links.size + (this.#others?.onlineCount ?? 0);
  }

  /** A version is committed: its function's limit holds from now on. */
  deployed(projectId: string, { id, version, maxConcurrent: limit }: FunctionRecord): void {
    this.limited(projectId, { id, version, limit });
    this.#others?.tell(['limit', projectId, id, version, limit]);
  }

  limited(projectId: string, of: QueuedAttempt['function']): void {
    this.scheduler.apply({ type: 'function_limit', projectId, function: of });
    this.pump();
  }

  queuedAttempt(attemptId: string): QueuedAttempt | undefined {
    return this.#queued.get(attemptId);
  }

  enqueue(attempt: QueuedAttempt): void {
    this.#enqueue(attempt);
    if (this.#others?.areThere === true) this.#fresh.add(attempt.attemptId);
    this.pump();
  }

  /**
   * A worker's session is committed. Its earlier link is closed.
   *
   * @returns the attempts that go on, in this session
   */
  sessionOpened(link: WorkerLink, opened: SessionOpened): LiveAttempt[] {
    this.#others?.tell(['worker', link.workerId]);
    this.#links.get(link.workerId)?.close(4001, 'session_replaced');
    this.#links.set(link.workerId, link);
    this.scheduler.apply({ type: 'worker_offline', workerId: link.workerId });
    const { isolation, egress, cpus, memoryMiB, diskMiB, sandboxOverheadMiB } = link.capabilities;
    this.scheduler.apply({
      type: 'worker_online',
      workerId: link.workerId,
      isolation,
      egress,
      cpus,
      memoryMiB,
      diskMiB,
      sandboxOverheadMiB,
      attempts: opened.resume.map(itemOf),
    });
    this.drains.online(link);
    for (const row of opened.lost) void this.ended(row, 'control');
    for (const readopted of opened.readopted) this.#supersede(readopted);
    for (const row of opened.requeued) {
      const wasSent = this.live.get(row.attemptId)?.isSent ?? true;
      this.#drop(row.attemptId);
      this.scheduler.apply({ type: 'released', attemptId: row.attemptId });
      this.enqueue(row);
      if (wasSent) this.#unanswered(row);
    }
    const resumed = opened.resume.map((row) => this.#adopt(row, link));
    this.trust.online(link.workerId);
    this.pump();
    return resumed;
  }

  /** The socket is gone; what it had stays the worker's until its lease runs out. */
  sessionClosed(link: WorkerLink): void {
    if (this.#links.get(link.workerId) !== link) return;
    this.#links.delete(link.workerId);
    this.#window.forget(link);
    this.scheduler.apply({ type: 'worker_offline', workerId: link.workerId });
    for (const attempt of this.live.ofWorker(link.workerId)) if (attempt.link === link) attempt.link = null;
  }

  /** The worker has, or has no more, these large blobs. @throws CocoreError `protocol_violation` when it tells of too many */
  workerBlobs(link: WorkerLink, added: readonly string[], removed: readonly string[]): void {
    if (this.#links.get(link.workerId) !== link) return;
    this.scheduler.apply({ type: 'worker_blobs', workerId: link.workerId, added, removed });
    if (this.scheduler.blobCount(link.workerId) <= MAX_TOLD_BLOBS) return;
    throw new CocoreError('protocol_violation', `a worker tells of at most ${MAX_TOLD_BLOBS} blobs`);
  }

  /** A committed refusal: the attempt is queued again. A worker that stops takes nothing more in this session. */
  refused(attempt: LiveAttempt, cause: 'no_capacity' | 'stopping'): void {
    const { link, workerId } = attempt;
    this.requeue(attempt);
    if (cause === 'stopping') {
      this.scheduler.apply({ type: 'worker_stopping', workerId });
      return;
    }
    this.scheduler.apply({ type: 'worker_closed', workerId });
    setTimeout(() => {
      if (this.#links.get(workerId) !== link) return;
      this.scheduler.apply({ type: 'worker_opened', workerId });
      this.pump();
    }, REFUSAL_PAUSE_MS).unref();
  }

  /** Its worker was given up on before it had answered: it is queued in the store again. */
  lost(attempt: LiveAttempt): void {
    this.requeue(attempt);
    if (attempt.isSent) this.#unanswered(attempt);
  }

  /** It is queued in the store again. */
  requeue(attempt: LiveAttempt): void {
    this.#drop(attempt.attemptId);
    this.scheduler.apply({ type: 'released', attemptId: attempt.attemptId });
    this.enqueue({ ...placeableOf(attempt), queuedAtMs: this.#parts.clock.nowMs(), notBeforeMs: null });
  }

  /**
   * Its end is committed. What follows it, if anything does, is queued.
   *
   * @param outcome as its worker says, if that said it
   * @param end of its execution too; null where another attempt may follow
   */
  async ended(
    attempt: AttemptKey & { readonly executionId: string },
    by: 'worker' | 'control',
    outcome: Outcome | null = null,
    end: { readonly record: ExecutionRecord | null } | null = null,
  ): Promise<void> {
    const live = this.live.get(attempt.attemptId);
    this.#drop(attempt.attemptId);
    this.scheduler.apply({ type: 'released', attemptId: attempt.attemptId });
    if (live !== undefined) this.trust.ended(live, outcome);
    this.#parts.metrics.attemptsEnded.inc({ by });
    if (end === null) await this.#follow(attempt);
    else this.#followed(attempt.executionId, null, end.record);
  }

  /** Its acceptance is committed. */
  accepted(attemptId: string): void {
    this.#unansweredTimes.delete(attemptId);
  }

  /** An execution that was never accepted has ended: it waits no more, and a worker that has it drops it. */
  withdrawn(executionId: string, attemptId: string): void {
    const attempt = this.live.get(attemptId);
    attempt?.link?.send({ type: 'AttemptRevoke', attemptId, why: 'the execution has ended' });
    this.#drop(attemptId);
    this.#dequeue(attemptId);
    this.#others?.tell(['look', attemptId]);
    this.#parts.hub.publish(executionId, 'ended');
    this.pump();
  }

  /** Another server has it, or nobody: what this one holds of it is dropped, and ends nothing. */
  letGo(attempt: LiveAttempt): void {
    const { attemptId, link } = attempt;
    link?.send({ type: 'AttemptRevoke', attemptId, why: 'it is not this session’s' });
    this.#drop(attemptId);
    this.scheduler.apply({ type: 'released', attemptId });
    this.pump();
  }

  /** Workers that have these are this server's to see to. */
  claimed(rows: readonly LiveAttemptRow[]): void {
    for (const row of rows) if (this.live.get(row.attemptId) === undefined) this.#adopt(row, null);
  }

  /** Places what can be placed, once what is under way in this turn of the event loop is done. */
  pump(): void {
    if (this.#pumping || this.#stopped) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      for (let placement = this.scheduler.next(); placement !== null; placement = this.scheduler.next()) {
        this.#begin(placement);
      }
      for (const attemptId of this.#fresh) if (this.scheduler.isQueued(attemptId)) this.#offer(attemptId);
      this.#fresh.clear();
    });
  }

  /** Tries again what this server could not do before, and places what has room by now. */
  retry(): void {
    this.scheduler.apply({ type: 'time', nowMs: this.#parts.clock.uptimeMs() });
    this.trust.sweep();
    for (const [attemptId, order] of this.#failed) {
      const queued = this.#queued.get(attemptId);
      // What held up others of its limit holds them up no more.
      if (this.live.get(attemptId) === undefined) this.scheduler.apply({ type: 'released', attemptId });
      if (queued !== undefined) this.#enqueueAt(queued, order);
    }
    this.#failed.clear();
    const unfollowed = [...this.#unfollowed];
    this.#unfollowed.clear();
    for (const ended of unfollowed) void this.#follow(ended);
    this.pump();
  }

  #begin(placement: Placement): void {
    const { attemptId, workerId, order } = placement;
    this.#place(placement).catch((error: unknown) => {
      this.#parts.log.error({ err: error, attemptId, workerId }, 'an attempt could not be assigned');
      this.scheduler.apply({ type: 'released', attemptId });
      this.#failed.set(attemptId, order);
    });
  }

  async #place({ attemptId, workerId, order }: Placement): Promise<void> {
    const queued = this.#queued.get(attemptId);
    const link = this.#links.get(workerId);
    if (queued === undefined || link === undefined) {
      this.scheduler.apply({ type: 'released', attemptId });
      return;
    }
    const arrived = this.#window.add(link, queued.taskBytes);
    let task: AssignedTask | Capped | 'stale' | null = null;
    try {
      const isContended = this.#shared.has(attemptId) && this.#others?.areThere === true;
      const shared = this.#others === null ? null : { caps: queued, isContended };
      task = await this.#parts.store.assign(queued, { workerId, sessionId: link.sessionId }, shared);
    } finally {
      if (task === null || task === 'stale' || 'capped' in task) arrived();
    }
    if (task !== null && task !== 'stale' && 'capped' in task) {
      this.#capped(queued, order, task.capped);
      return;
    }
    if (task === null || task === 'stale') {
      this.scheduler.apply({ type: 'released', attemptId });
      // Another session of the worker came between, of which this server may not have heard yet: the attempt still waits.
      if (task === null) this.#dequeue(attemptId);
      else if (this.#others?.areThere === true) {
        // Or a drain by another server, likewise.
        this.#failed.set(attemptId, order);
        this.#offer(attemptId);
        this.#others.lookAtWorkers().catch(() => undefined);
      } else if (this.#queued.has(attemptId)) this.#enqueueAt(queued, order);
      this.pump();
      return;
    }
    this.#queued.delete(attemptId);
    if (this.#shared.delete(attemptId)) this.#others?.tell(['taken', attemptId]);
    this.#assigned(queued, link, task, arrived);
  }

  /** Other servers have as many of its function or key as may be: it holds up those behind it, until it is tried again. */
  #capped(queued: QueuedAttempt, order: number, of: QueuedAttempt['function']): void {
    const { attemptId, projectId } = queued;
    this.scheduler.apply({ type: 'released', attemptId });
    if (this.#queued.has(attemptId)) {
      const known = { ...queued, function: of };
      this.#queued.set(attemptId, known);
      this.scheduler.apply({ type: 'held', ...itemOf(known) });
      this.#failed.set(attemptId, order);
      this.#offer(attemptId);
    }
    this.limited(projectId, of);
  }

  /** Others may have room for it. */
  #offer(attemptId: string): void {
    if (this.#others?.areThere !== true) return;
    this.#shared.add(attemptId);
    this.#others.tell(['queued', attemptId]);
  }

  /** It waits no more. */
  #dequeue(attemptId: string): void {
    this.#queued.delete(attemptId);
    this.#shared.delete(attemptId);
    this.#failed.delete(attemptId);
    this.#unansweredTimes.delete(attemptId);
    this.scheduler.apply({ type: 'dequeued', attemptId });
    if (this.live.get(attemptId) === undefined) this.scheduler.apply({ type: 'released', attemptId });
  }

  #enqueueAt(queued: QueuedAttempt, order: number | undefined): void {
    this.scheduler.apply({ type: 'queued', ...itemOf(queued), ...(order === undefined ? {} : { order }) });
  }

  #assigned(queued: QueuedAttempt, link: WorkerLink, task: AssignedTask, arrived: () => void): void {
    const { attemptId, executionId } = queued;
    const attempt: LiveAttempt = {
      ...placeableOf(queued),
      workerId: link.workerId,
      writer: this.#parts.output.writer(
        queued,
        ofStreams(() => 0),
        limitsOf(task),
      ),
      state: 'assigned',
      sessionId: link.sessionId,
      timeoutMs: task.timeoutMs,
      link: this.#links.get(link.workerId) === link ? link : null,
      isSent: false,
      linkedUptimeMs: this.#parts.clock.uptimeMs(),
      revokedUptimeMs: null,
      deadlineUptimeMs: null,
      cancelRequestedUptimeMs: null,
      ...NOTHING_HEARD,
    };
    this.live.add(attempt);
    this.#parts.metrics.attemptsAssigned.inc();
    const channel = link.bind(attempt);
    link.send({ type: 'AttemptAssign', attemptId, executionId, channel, task: taskSpec(task) }, () => {
      attempt.isSent = true;
      attempt.linkedUptimeMs = this.#parts.clock.uptimeMs();
      arrived();
    });
  }

  #enqueue(attempt: QueuedAttempt): void {
    const { attemptId, queuedAtMs, notBeforeMs } = attempt;
    const queued = { ...placeableOf(attempt), queuedAtMs, notBeforeMs };
    this.#queued.set(attemptId, queued);
    const waitMs = notBeforeMs === null ? 0 : notBeforeMs - this.#parts.clock.nowMs();
    if (waitMs <= 0) {
      this.scheduler.apply({ type: 'queued', ...itemOf(queued) });
      return;
    }
    // No longer than the longest wait, whatever the time of day is set to meanwhile.
    setTimeout(
      () => {
        if (this.#queued.get(attemptId) !== queued || this.#stopped) return;
        this.scheduler.apply({ type: 'queued', ...itemOf(queued) });
        if (this.#others?.areThere === true) this.#fresh.add(attemptId);
        this.pump();
      },
      Math.min(waitMs, MAX_RETRY_BACKOFF_MS),
    ).unref();
  }

  /** Whatever makes workers fall silent over an assignment must not go to one after the other. */
  #unanswered({ attemptId, executionId }: { attemptId: string; executionId: string }): void {
    const queued = this.#queued.get(attemptId);
    if (queued === undefined) return;
    const times = (this.#unansweredTimes.get(attemptId) ?? 0) + 1;
    this.#unansweredTimes.set(attemptId, times);
    if (times < MAX_UNANSWERED) return;
    this.scheduler.apply({ type: 'dequeued', attemptId });
    this.#parts.store.endUnplaceable(queued, `no worker answered when it was given it, ${times} times`).then(
      (ended) => {
        if (ended) this.withdrawn(executionId, attemptId);
      },
      (error: unknown) => {
        this.#parts.log.error({ err: error, attemptId }, 'an attempt that nobody answers could not be ended');
        this.#failed.set(attemptId, undefined);
      },
    );
  }

  /** The attempt goes on in the place of the one that waited. */
  #supersede({ attemptId, executionId, superseded }: Readopted): void {
    this.#drop(attemptId);
    this.#dequeue(superseded);
    this.#others?.tell(['taken', superseded]);
    this.#parts.hub.publish(executionId, 'changed');
  }

  /** Makes or updates what is held of an attempt that is committed to a worker. */
  #adopt(row: LiveAttemptRow, link: WorkerLink | null): LiveAttempt {
    const { clock, output } = this.#parts;
    const known = this.live.get(row.attemptId);
    if (known !== undefined) {
      known.link = link;
      known.sessionId = row.sessionId ?? '';
      known.isSent = true;
      known.revokedUptimeMs = null;
      known.fetching = null;
      known.missedBeats = 0;
      known.linkedUptimeMs = clock.uptimeMs();
      return known;
    }
    const attempt: LiveAttempt = {
      ...placeableOf(row),
      workerId: row.workerId!,
      writer: output.writer(row, row.bytes, limitsOf(row)),
      state: row.state === 'queued' ? 'assigned' : row.state,
      sessionId: row.sessionId ?? '',
      timeoutMs: row.timeoutMs,
      link,
      isSent: true,
      linkedUptimeMs: clock.uptimeMs(),
      revokedUptimeMs: null,
      deadlineUptimeMs:
        row.deadlineAtMs === null
          ? null
          : deadlineUptimeMs(clock, row.deadlineAtMs, row.state === 'started' ? row.timeoutMs : PREPARE_TIMEOUT_MS),
      cancelRequestedUptimeMs: row.cancelRequestedAtMs === null ? null : clock.uptimeMs(),
      ...NOTHING_HEARD,
    };
    this.live.add(attempt);
    this.scheduler.apply({ type: 'held', ...itemOf(attempt) });
    return attempt;
  }

  async #follow(attempt: AttemptKey & { executionId: string }): Promise<void> {
    const { store, log } = this.#parts;
    let next: QueuedAttempt | null;
    try {
      next = await store.readNext(attempt);
    } catch (error) {
      log.error({ err: error, attemptId: attempt.attemptId }, 'what follows an attempt is not known yet');
      this.#unfollowed.add(attempt);
      return;
    }
    // Its worker came back meanwhile: it goes on itself.
    if (this.live.get(attempt.attemptId) !== undefined) return;
    this.#followed(attempt.executionId, next);
  }

  #followed(executionId: string, next: QueuedAttempt | null, record: ExecutionRecord | null = null): void {
    if (next !== null && !this.#queued.has(next.attemptId)) this.enqueue(next);
    this.#parts.hub.publish(executionId, next === null ? 'ended' : 'changed', record);
    this.pump();
  }

  #drop(attemptId: string): void {
    const attempt = this.live.get(attemptId);
    if (attempt === undefined) return;
    attempt.over = true;
    attempt.link?.unbind(attempt);
    this.live.delete(attempt);
    attempt.writer[Symbol.asyncDispose]().catch((error: unknown) => {
      this.#parts.log.error({ err: error, attemptId }, 'an output file could not be closed');
    });
  }
}

/** As the task says it. */
const limitsOf = (task: Pick<AssignedTask, 'outputLimitBytes' | 'artifactsLimitBytes'>): StreamLimits => ({
  outputBytes: task.outputLimitBytes,
  artifactsBytes: task.artifactsLimitBytes,
});
