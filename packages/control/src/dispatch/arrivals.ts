import { IdMaker, SCRATCH_MIB } from '@cocore/protocol';
import type { Limits } from '../admission.ts';
import type { Clock } from '../clock.ts';
import type { Placement, Scheduler } from '../scheduler/scheduler.ts';
import type { Others } from '../servers/others.ts';
import { pooledRandom } from '../store/pooled-random.ts';
import type { AssignedTask, CreatedExecution, NewExecution, QueuedAttempt, Store } from '../store/store.ts';
import { inputBytes } from '../store/verbs/creation.ts';
import type { AssignmentWindow } from './assignment-window.ts';
import type { WorkerLink } from './live-attempt.ts';
import type { Placeable } from './placeable.ts';

/** Of so many functions it is remembered where they may run. */
const MAX_KNOWN = 4_096;

export interface ArrivalsParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  readonly links: ReadonlyMap<string, WorkerLink>;
  readonly window: AssignmentWindow;
  /** Null where no other server may use the store. */
  readonly others: Others | null;
  /** So many random bytes. */
  readonly random?: ((bytes: number) => Uint8Array) | undefined;
  /** It is committed, and waits. */
  readonly onQueued: (attempt: QueuedAttempt) => void;
  /** It is committed to the worker. */
  readonly onAssigned: (attempt: QueuedAttempt, link: WorkerLink, task: AssignedTask, arrived: () => void) => void;
  /** Something that waited was placed meanwhile. */
  readonly onPlacement: (placement: Placement) => void;
  /** A worker may have room again. */
  readonly onChanged: () => void;
}

/** What attempts of one function have in common, without what an execution brings. */
type Known = Pick<Placeable, 'function' | 'memoryMiB' | 'cpus' | 'isolation' | 'egress' | 'blobs' | 'taskBytes'>;

interface Reserved {
  readonly attemptId: string;
  readonly known: Known;
  readonly link: WorkerLink;
  /** To be called once it is not on its way to the worker any more. */
  readonly arrived: () => void;
}

/**
 * Makes executions. One whose function has run before, and for which a worker has room when its turn has come, is made and assigned by one commit: it is
 * placed before it is there, by what was known of its function, which the store holds against what is so.
 */
export class Arrivals {
  readonly #parts: ArrivalsParts;
  readonly #random: (bytes: number) => Uint8Array;
  readonly #ids = new IdMaker();
  /** By project and by what a request calls the function; the one that was learned longest ago first. */
  readonly #known = new Map<string, Known>();

  constructor(parts: ArrivalsParts) {
    this.#parts = parts;
    this.#random = parts.random ?? pooledRandom();
  }

  /** @throws CocoreError as `createExecutions` of the store */
  async create(execution: NewExecution, limits: Limits): Promise<CreatedExecution> {
    const { store, onQueued } = this.#parts;
    const reserved = this.#reserve(execution);
    if (reserved !== null) return this.#createAssigned(execution, limits, reserved);
    const [created] = await store.createExecutions([execution], limits);
    const { queued } = created!;
    if (queued !== null) {
      this.#learn(execution, queued);
      onQueued(queued);
    }
    return created!;
  }

  async #createAssigned(
    execution: NewExecution,
    limits: Limits,
    { attemptId, known, link, arrived }: Reserved,
  ): Promise<CreatedExecution> {
    const { store, scheduler, others, onAssigned, onQueued, onChanged } = this.#parts;
    const release = () => {
      arrived();
      scheduler.apply({ type: 'released', attemptId });
    };
    const { workerId, sessionId } = link;
    const { function: of } = known;
    const caps = { function: of, concurrency: execution.concurrency ?? null };
    const shared = others === null ? null : { caps, isContended: false };
    try {
      const created = await store.createAssigned(execution, limits, {
        ...{ attemptId, function: of, worker: { workerId, sessionId }, shared },
      });
      const { queued, task } = created;
      if (queued !== null && task !== null) {
        onAssigned(queued, link, task, arrived);
      } else {
        release();
        if (queued !== null) this.#learn(execution, queued);
        if (queued !== null) onQueued(queued);
        else onChanged();
      }
      return created;
    } catch (error) {
      release();
      onChanged();
      throw error;
    }
  }

  /** Room for it, when there is some and nothing goes before it. */
  #reserve(execution: NewExecution): Reserved | null {
    const { scheduler, clock, links, window, onPlacement } = this.#parts;
    const known = this.#known.get(nameOf(execution));
    if (known === undefined || links.size === 0) return null;
    const { projectId, stdin, files, priority = 0, concurrency = null } = execution;
    if (files.length > 0 || (stdin !== null && 'blob' in stdin)) return null;
    const attemptId = this.#ids.make('attempt', clock.nowMs(), this.#random(10));
    const { taskBytes: _, ...item } = known;
    scheduler.apply({ type: 'queued', ...item, projectId, attemptId, priority, concurrency, diskMiB: SCRATCH_MIB });
    for (let placement = scheduler.next(); placement !== null; placement = scheduler.next()) {
      if (placement.attemptId !== attemptId) {
        onPlacement(placement);
        continue;
      }
      const link = links.get(placement.workerId);
      if (link === undefined) break;
      return { attemptId, known, link, arrived: window.add(link, known.taskBytes + ownBytes(execution)) };
    }
    scheduler.apply({ type: 'dequeued', attemptId });
    scheduler.apply({ type: 'released', attemptId });
    return null;
  }

  #learn(
    execution: NewExecution,
    { function: of, memoryMiB, cpus, isolation, egress, blobs, taskBytes }: QueuedAttempt,
  ) {
    // What its files add is not known here.
    if (execution.files.length > 0) return;
    const name = nameOf(execution);
    const before = this.#known.get(name);
    if (before?.function.version === of.version && before.function.limit === of.limit) return;
    this.#known.delete(name);
    this.#known.set(name, {
      ...{ function: of, memoryMiB, cpus, isolation, egress },
      // Image and code; the input's are its own.
      blobs: blobs.slice(0, 2),
      taskBytes: taskBytes - ownBytes(execution),
    });
    if (this.#known.size <= MAX_KNOWN) return;
    const [oldest] = this.#known.keys();
    this.#known.delete(oldest!);
  }
}

const nameOf = ({ projectId, function: name }: NewExecution): string => `${projectId} ${name}`;

/** What it adds to its assignment. */
const ownBytes = ({ args, env, stdin }: NewExecution): number =>
  inputBytes([JSON.stringify(args), JSON.stringify(env)], stdin !== null && 'inline' in stdin ? stdin.inline : null);
