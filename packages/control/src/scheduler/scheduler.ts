import { assertNever, canRun, isAtLeast, type SandboxKind, type Waiting } from '@cocore/protocol';
import { countBelow } from './count-below.ts';
import { headOf, isBefore, needKey, type NeedQueue, ProjectQueue, type QueuedItem } from './project-queue.ts';
import { Reservations } from './reservations.ts';
import { type Room, Rooms } from './rooms.ts';
import type { CapFacts, Need, Placement, SchedulerEvent, SchedulerItem } from './types.ts';
import { busy, capped, noEgress, noWorker, tooLarge, tooWeak, type Why } from './waiting.ts';

export type { CapFacts, ConcurrencyKey, Placement, SchedulerEvent, SchedulerItem, SchedulerShape } from './types.ts';

/**
 * Decides which queued attempt goes to which worker. Pure: it knows what its events told it, and nothing of time but the times in them.
 *
 * - An attempt goes only to a worker whose isolation class is at least the one that it requires, and which gives it a network if it has one.
 * - A placement reserves its room at once; `released` gives it back.
 * - Projects take turns: the one that was served longest ago goes first. Within a project the higher priority goes first, and of one priority the earlier; one that has no room now does not
 *   hold up another that has, of a lower priority too.
 * - No more attempts of a function have a worker than the function allows, and none starts while as many of its concurrency key have one as it
 *   allows. Those whose worker is away count, until they are released. An attempt that a cap holds up holds up no other.
 * - Of the workers that have room, an attempt goes to one that has its image already, of these to one that has its code, and so on in the
 *   order of its blobs; of those that are alike in this, to the one that has the least memory left after it (then the fewest CPUs), so
 *   that large rooms stay whole. What workers have decides where an attempt goes, never which attempt goes, nor whether it waits.
 * - An attempt that has waited long because others took what room there was gets a worker reserved (`Reservations`).
 */
export class Scheduler {
  readonly #rooms = new Rooms();
  readonly #reservations = new Reservations(this.#rooms);
  readonly #queued = new Map<string, QueuedItem>();
  /** Of which something waits or has a worker. */
  readonly #projects = new Map<string, ProjectQueue>();
  /** Those of which something waits, the one first that was served longest ago. */
  readonly #turns: ProjectQueue[] = [];
  /** How many attempts of each need wait. */
  readonly #needs = new Map<string, { readonly need: Need; count: number }>();
  /** The project of what has a worker, online or not. */
  readonly #projectOfHeld = new Map<string, string>();
  /** The room of what has a worker that is online. */
  readonly #roomOf = new Map<string, Room>();
  /** Workers that get nothing for a time. */
  readonly #backedOff = new Set<Room>();
  /** Nothing can be placed until something changes. */
  #isStuck = false;
  #order = 0;
  #servedTimes = 0;

  apply(event: SchedulerEvent): void {
    switch (event.type) {
      case 'worker_online':
        this.#online(event);
        return;
      case 'worker_offline':
        this.#offline(event.workerId);
        return;
      case 'worker_blobs':
        this.#rooms.tellBlobs(event.workerId, event.added, event.removed);
        return;
      case 'worker_closed':
        this.#change(event.workerId, (room) => (room.isOpen = false));
        return;
      case 'worker_opened':
        this.#change(event.workerId, (room) => (room.isOpen = true));
        return;
      case 'worker_behind':
        this.#change(event.workerId, (room) => (room.isBehind = event.behind));
        return;
      case 'worker_stopping':
        this.#change(event.workerId, (room) => (room.isStopping = true));
        return;
      case 'worker_drained':
        this.#change(event.workerId, (room) => (room.isDrained = event.drained));
        return;
      case 'worker_trust':
        this.#change(event.workerId, (room) => {
          room.allowance = event.allowance;
          room.notBeforeMs = event.notBeforeMs;
          if (event.notBeforeMs !== null) this.#backedOff.add(room);
        });
        return;
      case 'function_limit':
        this.#project(event.projectId).limitFunction(event.function);
        this.#isStuck = false;
        return;
      case 'queued':
        this.#enqueue(event);
        return;
      case 'dequeued': {
        const item = this.#queued.get(event.attemptId);
        if (item !== undefined) this.#dequeue(item);
        return;
      }
      case 'held':
        this.#hold(event);
        return;
      case 'released':
        this.#release(event.attemptId);
        return;
      case 'time':
        this.#passTime(event.nowMs);
        return;
      default:
        assertNever(event);
    }
  }

  /** The next placement, its room already taken; null when nothing that is queued has room. */
  next(): Placement | null {
    if (this.#isStuck) return null;
    const reserved = this.#reservations.due();
    if (reserved !== null) return this.#place(reserved.item, reserved.room);
    for (const project of this.#turns) {
      const found = this.#nextOf(project);
      if (found !== null) return this.#place(found.item, found.room);
    }
    this.#isStuck = true;
    return null;
  }

  /** Queued attempts that no worker which is online could run, were it empty, and why. Empty while no worker is online. */
  misfits(): { readonly attemptId: string; readonly why: Why }[] {
    if (this.#rooms.size === 0) return [];
    const whys = new Map<string, Why>();
    for (const [key, { need }] of this.#needs) {
      const why = this.#misfit(need);
      if (why !== null) whys.set(key, why);
    }
    if (whys.size === 0) return [];
    const found: { attemptId: string; why: Why }[] = [];
    for (const item of this.#queued.values()) {
      const why = whys.get(needKey(item));
      if (why !== undefined) found.push({ attemptId: item.attemptId, why });
    }
    return found;
  }

  /** Why no worker that is online could run the attempt, were it empty; null when one could, when none is online, or when it is not queued. */
  misfit(attemptId: string): Why | null {
    const item = this.#queued.get(attemptId);
    return item === undefined || this.#rooms.size === 0 ? null : this.#misfit(item);
  }

  /** Why nothing takes the attempt now, and where it stands among those of its project; null when it is not queued, or about to be placed. */
  why(attemptId: string): Waiting | null {
    const item = this.#queued.get(attemptId);
    if (item === undefined) return null;
    const project = this.#projects.get(item.projectId)!;
    const why = this.#whyOf(item, project);
    return why === null ? null : { ...why, position: project.positionOf(item) };
  }

  /** How many large blobs the worker has told of; zero for one that is not online. */
  blobCount(workerId: string): number {
    return this.#rooms.get(workerId)?.blobs.size ?? 0;
  }

  isQueued(attemptId: string): boolean {
    return this.#queued.has(attemptId);
  }

  get queuedCount(): number {
    return this.#queued.size;
  }

  /** What is reserved on a worker; zero for one that is not online. */
  usage(workerId: string): { memoryMiB: number; cpus: number; attempts: number } {
    const room = this.#rooms.get(workerId);
    return {
      memoryMiB: room?.usedMemoryMiB ?? 0,
      cpus: room?.usedCpus ?? 0,
      attempts: room?.attempts.size ?? 0,
    };
  }

  #online(event: Extract<SchedulerEvent, { type: 'worker_online' }>): void {
    this.#offline(event.workerId);
    const room = this.#rooms.add(event);
    for (const attempt of event.attempts) {
      this.#hold(attempt);
      room.take(attempt.attemptId, attempt);
      this.#roomOf.set(attempt.attemptId, room);
    }
    this.#changed(room);
  }

  #offline(workerId: string): void {
    const room = this.#rooms.delete(workerId);
    if (room === undefined) return;
    for (const attemptId of room.attempts.keys()) this.#roomOf.delete(attemptId);
    this.#backedOff.delete(room);
    this.#reservations.drop(room);
  }

  #change(workerId: string, change: (room: Room) => void): void {
    const room = this.#rooms.get(workerId);
    if (room === undefined) return;
    change(room);
    this.#changed(room);
  }

  /** A room may take more than before. */
  #changed(room: Room): void {
    this.#rooms.changed(room);
    if (this.#isStuck && this.#isWantedOf(room)) this.#isStuck = false;
  }

  /** Whether something that waits has room there, or waits for just this one. */
  #isWantedOf(room: Room): boolean {
    if (room.reservedFor !== null) return true;
    for (const { need } of this.#needs.values()) if (room.hasRoom(need)) return true;
    return false;
  }

  #project(projectId: string): ProjectQueue {
    let project = this.#projects.get(projectId);
    if (project === undefined) {
      project = new ProjectQueue();
      this.#projects.set(projectId, project);
    }
    return project;
  }

  #enqueue(event: SchedulerItem & { readonly order?: number }): void {
    if (this.#queued.has(event.attemptId)) return;
    if (event.order === undefined) this.#order += 1;
    const item: QueuedItem = { ...event, order: event.order ?? this.#order };
    this.#queued.set(item.attemptId, item);
    const key = needKey(item);
    const waiting = this.#needs.get(key);
    if (waiting === undefined) this.#needs.set(key, { need: item, count: 1 });
    else waiting.count += 1;
    const project = this.#project(item.projectId);
    if (project.queues.size === 0) this.#joinTurns(project);
    project.add(item);
    this.#isStuck = false;
  }

  #dequeue(item: QueuedItem): void {
    this.#queued.delete(item.attemptId);
    const key = needKey(item);
    const waiting = this.#needs.get(key)!;
    waiting.count -= 1;
    if (waiting.count === 0) this.#needs.delete(key);
    const project = this.#projects.get(item.projectId)!;
    project.delete(item);
    if (project.queues.size === 0) this.#turns.splice(this.#turns.indexOf(project), 1);
    this.#forgetIfEmpty(item.projectId, project);
    const room = this.#reservations.cancel(item.attemptId);
    if (room !== null) this.#changed(room);
  }

  #hold(facts: CapFacts): void {
    if (this.#projectOfHeld.has(facts.attemptId)) return;
    this.#projectOfHeld.set(facts.attemptId, facts.projectId);
    this.#project(facts.projectId).hold(facts);
  }

  #release(attemptId: string): void {
    const room = this.#roomOf.get(attemptId);
    if (room !== undefined) {
      this.#roomOf.delete(attemptId);
      room.giveBack(attemptId);
      this.#changed(room);
    }
    const projectId = this.#projectOfHeld.get(attemptId);
    if (projectId === undefined) return;
    this.#projectOfHeld.delete(attemptId);
    const project = this.#projects.get(projectId)!;
    if (project.release(attemptId)) this.#isStuck = false;
    this.#forgetIfEmpty(projectId, project);
  }

  /** Behind those that were served longer ago. */
  #joinTurns(project: ProjectQueue): void {
    const turns = this.#turns;
    const at = countBelow(turns.length, (place) => turns[place]!.servedTime <= project.servedTime);
    turns.splice(at, 0, project);
  }

  #forgetIfEmpty(projectId: string, project: ProjectQueue): void {
    if (project.isEmpty) this.#projects.delete(projectId);
  }

  #nextOf(project: ProjectQueue): { item: QueuedItem; room: Room } | null {
    let first: QueuedItem | undefined;
    let firstKey = '';
    for (const queue of project.queues.values()) {
      const head = headOf(queue);
      if (head === undefined || (first !== undefined && !isBefore(head, first))) continue;
      if (!this.#rooms.hasRoom(queue.need, queue.key)) continue;
      first = head;
      firstKey = queue.key;
    }
    return first === undefined ? null : { item: first, room: this.#rooms.best(first, firstKey)! };
  }

  #place(item: QueuedItem, room: Room): Placement {
    const { attemptId, projectId } = item;
    // Before it leaves the queue, so that its project is not forgotten between.
    this.#hold(item);
    this.#dequeue(item);
    room.take(attemptId, item);
    this.#roomOf.set(attemptId, room);
    this.#rooms.changed(room);
    this.#servedTimes += 1;
    const project = this.#projects.get(projectId)!;
    project.servedTime = this.#servedTimes;
    if (project.queues.size > 0) {
      this.#turns.splice(this.#turns.indexOf(project), 1);
      this.#turns.push(project);
    }
    return { attemptId, workerId: room.workerId, order: item.order };
  }

  #passTime(nowMs: number): void {
    for (const room of this.#backedOff) {
      if (room.notBeforeMs !== null && room.notBeforeMs > nowMs) continue;
      this.#backedOff.delete(room);
      room.notBeforeMs = null;
      this.#changed(room);
    }
    const queues: NeedQueue[] = [];
    for (const project of this.#turns) queues.push(...project.queues.values());
    for (const room of this.#reservations.review(queues, nowMs)) this.#changed(room);
  }

  #whyOf(item: QueuedItem, project: ProjectQueue): Why | null {
    const cap = project.fullCapOf(item);
    if (cap !== null) return capped(cap);
    if (this.#rooms.size === 0) return noWorker(item);
    const misfit = this.#misfit(item);
    if (misfit !== null) return misfit;
    if (this.#rooms.best(item, needKey(item)) !== null) return null;
    return busy(
      item,
      [...this.#rooms].filter((room) => room.couldRun(item)),
    );
  }

  /** Whether a worker that is online has sandboxes such as these. */
  isGiven(required: SandboxKind): boolean {
    for (const room of this.#rooms) if (canRun(room, required)) return true;
    return false;
  }

  #misfit(need: Need): Why | null {
    for (const room of this.#rooms) if (room.couldRun(need)) return null;
    const strong = [...this.#rooms].filter((room) => isAtLeast(room.isolation, need.isolation));
    if (strong.length === 0) return tooWeak(need, this.#rooms);
    const open = strong.filter((room) => canRun(room, need));
    return open.length === 0 ? noEgress(need, strong.length) : tooLarge(need, open);
  }
}
