import { assertNever, isAtLeast, type IsolationClass, type Waiting } from '@cocore/protocol';
import { busy, noWorker, tooLarge, tooWeak } from './waiting.ts';

/**
 * Decides which queued attempt goes to which worker. Pure: it knows what its events told it, and nothing of time but the times in them.
 *
 * - An attempt goes only to a worker whose isolation class is at least the one that it requires.
 * - A placement reserves its room at once; `released` gives it back.
 * - Projects take turns. Within a project, attempts of one shape and class go first in, first out; one that has no room now
 *   does not hold up another that has.
 * - Of the workers that have room, an attempt goes to one that has its image already, of these to one that has its code, and so on in the
 *   order of its blobs; of those that are alike in this, to the one that has the least memory left after it (then the fewest CPUs), so
 *   that large rooms stay whole. What workers have decides where an attempt goes, never which attempt goes, nor whether it waits.
 */
export class Scheduler {
  readonly #workers = new Map<string, WorkerRoom>();
  readonly #queued = new Map<string, QueuedItem>();
  /** In turn: the first project is the next to be served. */
  readonly #projects = new Map<string, Map<string, Lane>>();
  readonly #placed = new Map<string, Placed>();
  #order = 0;

  apply(event: SchedulerEvent): void {
    switch (event.type) {
      case 'worker_online':
        this.#workers.set(event.workerId, {
          ...event,
          usedMemoryMiB: 0,
          usedCpus: 0,
          usedDiskMiB: 0,
          blobs: new Set(),
          open: true,
          stopping: false,
        });
        for (const attempt of event.attempts) this.#reserve(attempt, event.workerId);
        return;
      case 'worker_offline':
        this.#workers.delete(event.workerId);
        for (const [attemptId, placed] of this.#placed) {
          if (placed.workerId === event.workerId) this.#placed.delete(attemptId);
        }
        return;
      case 'worker_blobs': {
        const blobs = this.#workers.get(event.workerId)?.blobs;
        for (const digest of event.removed) blobs?.delete(digest);
        for (const digest of event.added) blobs?.add(digest);
        return;
      }
      case 'worker_closed':
        this.#open(event.workerId, false);
        return;
      case 'worker_opened':
        this.#open(event.workerId, true);
        return;
      case 'worker_stopping': {
        const worker = this.#workers.get(event.workerId);
        if (worker !== undefined) worker.stopping = true;
        return;
      }
      case 'queued':
        this.#enqueue(event);
        return;
      case 'dequeued':
        this.#dequeue(event.attemptId);
        return;
      case 'released':
        this.#release(event.attemptId);
        return;
      default:
        assertNever(event);
    }
  }

  /** The next placement, its room already taken; null when nothing that is queued has room. */
  next(): Placement | null {
    const hasRoom = new Map<string, boolean>();
    for (const [projectId, lanes] of this.#projects) {
      let item: QueuedItem | null = null;
      for (const lane of lanes.values()) {
        const first = lane.items.values().next().value!;
        if (item !== null && item.order < first.order) continue;
        const key = laneKey(first);
        let fits = hasRoom.get(key);
        if (fits === undefined) {
          fits = this.#bestPlace(first) !== null;
          hasRoom.set(key, fits);
        }
        if (fits) item = first;
      }
      if (item === null) continue;
      const worker = this.#bestPlace(item)!;
      this.#dequeue(item.attemptId);
      this.#reserve(item, worker.workerId);
      this.#sendToBack(projectId);
      return { attemptId: item.attemptId, workerId: worker.workerId };
    }
    return null;
  }

  /** Queued attempts that no worker which is online could run, were it empty, and why. Empty while no worker is online. */
  misfits(): { readonly attemptId: string; readonly why: Waiting }[] {
    if (this.#workers.size === 0) return [];
    const whys = new Map<string, Waiting | null>();
    const found: { attemptId: string; why: Waiting }[] = [];
    for (const item of this.#queued.values()) {
      const key = laneKey(item);
      let why = whys.get(key);
      if (why === undefined) {
        why = this.#misfit(item);
        whys.set(key, why);
      }
      if (why !== null) found.push({ attemptId: item.attemptId, why });
    }
    return found;
  }

  /** Why no worker that is online could run the attempt, were it empty; null when one could, when none is online, or when it is not queued. */
  misfit(attemptId: string): Waiting | null {
    const item = this.#queued.get(attemptId);
    return item === undefined || this.#workers.size === 0 ? null : this.#misfit(item);
  }

  /** Why nothing takes the attempt now; null when it is not queued, or about to be placed. */
  why(attemptId: string): Waiting | null {
    const item = this.#queued.get(attemptId);
    if (item === undefined) return null;
    if (this.#workers.size === 0) return noWorker(item);
    const misfit = this.#misfit(item);
    if (misfit !== null) return misfit;
    if (this.#bestPlace(item) !== null) return null;
    return busy(item, [...this.#workers.values()].filter((worker) => couldRun(worker, item)).length);
  }

  #misfit(item: SchedulerItem): Waiting | null {
    const strong = [...this.#workers.values()].filter((worker) => isAtLeast(worker.isolation, item.isolation));
    if (strong.length === 0) return tooWeak(item, this.#workers.values());
    return strong.some((worker) => couldRun(worker, item)) ? null : tooLarge(item, strong);
  }

  /** How many large blobs the worker has told of; zero for one that is not online. */
  blobCount(workerId: string): number {
    return this.#workers.get(workerId)?.blobs.size ?? 0;
  }

  get queuedCount(): number {
    return this.#queued.size;
  }

  /** What is reserved on a worker; zero for one that is not online. */
  usage(workerId: string): { memoryMiB: number; cpus: number; attempts: number } {
    const worker = this.#workers.get(workerId);
    let attempts = 0;
    for (const placed of this.#placed.values()) if (placed.workerId === workerId) attempts += 1;
    return { memoryMiB: worker?.usedMemoryMiB ?? 0, cpus: worker?.usedCpus ?? 0, attempts };
  }

  #open(workerId: string, open: boolean): void {
    const worker = this.#workers.get(workerId);
    if (worker !== undefined) worker.open = open;
  }

  #enqueue(item: SchedulerItem): void {
    if (this.#queued.has(item.attemptId)) return;
    this.#order += 1;
    const queued = { ...item, order: this.#order };
    this.#queued.set(item.attemptId, queued);
    let lanes = this.#projects.get(item.projectId);
    if (lanes === undefined) {
      lanes = new Map();
      this.#projects.set(item.projectId, lanes);
    }
    const key = laneKey(item);
    let lane = lanes.get(key);
    if (lane === undefined) {
      lane = { items: new Map() };
      lanes.set(key, lane);
    }
    lane.items.set(item.attemptId, queued);
  }

  #dequeue(attemptId: string): void {
    const item = this.#queued.get(attemptId);
    if (item === undefined) return;
    this.#queued.delete(attemptId);
    const lanes = this.#projects.get(item.projectId)!;
    const key = laneKey(item);
    const lane = lanes.get(key)!;
    lane.items.delete(attemptId);
    if (lane.items.size === 0) lanes.delete(key);
    if (lanes.size === 0) this.#projects.delete(item.projectId);
  }

  #sendToBack(projectId: string): void {
    const lanes = this.#projects.get(projectId);
    if (lanes === undefined) return;
    this.#projects.delete(projectId);
    this.#projects.set(projectId, lanes);
  }

  #bestPlace(item: SchedulerItem): WorkerRoom | null {
    let best: WorkerRoom | null = null;
    let bestLeft = Infinity;
    let bestHeld = -1;
    for (const worker of this.#workers.values()) {
      if (!worker.open || worker.stopping || !isAtLeast(worker.isolation, item.isolation)) continue;
      if (worker.usedCpus + item.cpus > worker.cpus || worker.usedDiskMiB + item.diskMiB > worker.diskMiB) continue;
      const left = worker.memoryMiB - worker.usedMemoryMiB - worker.sandboxOverheadMiB - item.memoryMiB;
      if (left < 0) continue;
      const held = heldOf(worker, item);
      const isTighter = left < bestLeft || (left === bestLeft && cpusLeft(worker) < cpusLeft(best!));
      if (held < bestHeld || (held === bestHeld && !isTighter)) continue;
      best = worker;
      bestLeft = left;
      bestHeld = held;
    }
    return best;
  }

  #reserve(attempt: SchedulerShape & { attemptId: string }, workerId: string): void {
    const worker = this.#workers.get(workerId)!;
    const memoryMiB = attempt.memoryMiB + worker.sandboxOverheadMiB;
    worker.usedMemoryMiB += memoryMiB;
    worker.usedCpus += attempt.cpus;
    worker.usedDiskMiB += attempt.diskMiB;
    this.#placed.set(attempt.attemptId, { workerId, memoryMiB, cpus: attempt.cpus, diskMiB: attempt.diskMiB });
  }

  #release(attemptId: string): void {
    const placed = this.#placed.get(attemptId);
    if (placed === undefined) return;
    this.#placed.delete(attemptId);
    const worker = this.#workers.get(placed.workerId);
    if (worker === undefined) return;
    worker.usedMemoryMiB -= placed.memoryMiB;
    worker.usedCpus -= placed.cpus;
    worker.usedDiskMiB -= placed.diskMiB;
    worker.open = true;
  }
}

export interface SchedulerShape {
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
}

export interface SchedulerItem extends SchedulerShape {
  readonly attemptId: string;
  readonly projectId: string;
  /** The weakest class that it may run in. */
  readonly isolation: IsolationClass;
  /** Digests of what its worker needs, the one that matters most first. */
  readonly blobs: readonly string[];
}

export type SchedulerEvent =
  | ({
      type: 'worker_online';
      workerId: string;
      /** What it gives in this session. */
      isolation: IsolationClass;
      sandboxOverheadMiB: number;
      /** What it already has. */
      attempts: readonly (SchedulerShape & { attemptId: string })[];
    } & SchedulerShape)
  | { type: 'worker_offline'; workerId: string }
  /** Large blobs that it has from now on, or no more. It has none when it comes online. */
  | { type: 'worker_blobs'; workerId: string; added: readonly string[]; removed: readonly string[] }
  /** It refused: nothing is placed on it until it is opened, or gives room back. */
  | { type: 'worker_closed'; workerId: string }
  | { type: 'worker_opened'; workerId: string }
  /** Nothing more is placed on it until it has been offline. */
  | { type: 'worker_stopping'; workerId: string }
  | ({ type: 'queued' } & SchedulerItem)
  /** It does not wait any more (cancelled, expired). */
  | { type: 'dequeued'; attemptId: string }
  /** Its worker has its room back. */
  | { type: 'released'; attemptId: string };

export interface Placement {
  readonly attemptId: string;
  readonly workerId: string;
}

interface WorkerRoom extends SchedulerShape {
  readonly workerId: string;
  readonly isolation: IsolationClass;
  readonly sandboxOverheadMiB: number;
  readonly blobs: Set<string>;
  usedMemoryMiB: number;
  usedCpus: number;
  usedDiskMiB: number;
  /** Takes placements. */
  open: boolean;
  stopping: boolean;
}

interface QueuedItem extends SchedulerItem {
  readonly order: number;
}

/** The attempts of one project, shape and class, first in, first out. Never empty. */
interface Lane {
  readonly items: Map<string, QueuedItem>;
}

interface Placed extends SchedulerShape {
  readonly workerId: string;
}

/** Attempts with one key fit the same workers. */
const laneKey = (item: SchedulerItem): string => `${item.memoryMiB}/${item.cpus}/${item.diskMiB}/${item.isolation}`;
/** Whether it could, were it empty. */
const couldRun = (worker: WorkerRoom, item: SchedulerItem): boolean =>
  isAtLeast(worker.isolation, item.isolation) &&
  item.memoryMiB + worker.sandboxOverheadMiB <= worker.memoryMiB &&
  item.cpus <= worker.cpus &&
  item.diskMiB <= worker.diskMiB;
/** How many of an attempt's blobs placement looks at: image, code, and the first of its input. */
const WEIGHED_BLOBS = 8;
/** The larger, the more that matters is there: a blob outweighs all that come after it. */
const heldOf = (worker: WorkerRoom, item: SchedulerItem): number =>
  item.blobs.slice(0, WEIGHED_BLOBS).reduce((held, digest) => held * 2 + (worker.blobs.has(digest) ? 1 : 0), 0);
const cpusLeft = (worker: WorkerRoom): number => worker.cpus - worker.usedCpus;
