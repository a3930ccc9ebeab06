import { Heap } from './heap.ts';
import { Positions } from './positions.ts';
import type { CapFacts, Need, SchedulerItem } from './types.ts';

/** An attempt that waits. */
export interface QueuedItem extends SchedulerItem {
  /** Of its arrival. */
  readonly order: number;
}

/** What keeps an attempt from going to a worker that has room. */
export type FullCap =
  | { readonly kind: 'function'; readonly functionId: string; readonly limit: number }
  | { readonly kind: 'key'; readonly key: string; readonly limit: number };

/** Attempts with one key fit the same workers. */
export const needKey = ({ memoryMiB, cpus, diskMiB, isolation, egress }: Need): string =>
  `${memoryMiB}/${cpus}/${diskMiB}/${isolation}${egress ? '/egress' : ''}`;

/** Of one project. */
export const isBefore = (one: QueuedItem, other: QueuedItem): boolean =>
  one.priority === other.priority ? one.order < other.order : one.priority > other.priority;

/** Who has a worker of those that count together: a set, so that its size cannot drift from the truth. */
interface Cap {
  readonly holders: Set<string>;
}

interface FunctionCap extends Cap {
  limit: number;
  /** Of the function, whose limit this is. */
  version: number;
  /** It was deployed in this life of the server: attempts of before, which know another limit, may still come. */
  isTold: boolean;
  readonly groups: Set<Group>;
}

interface KeyCap extends Cap {
  readonly lanes: Set<Lane>;
}

/** What counts against the same caps and fits the same workers. Never empty. */
interface Lane {
  readonly group: Group;
  readonly name: string;
  readonly key: string | null;
  readonly limit: number;
  readonly cap: KeyCap | null;
  readonly items: Heap<QueuedItem>;
}

/** Lanes of one function. `ready` holds those whose key has room. Never empty. */
interface Group {
  readonly queue: NeedQueue;
  readonly functionId: string;
  readonly cap: FunctionCap;
  readonly lanes: Map<string, Lane>;
  readonly ready: Heap<Lane>;
}

/** Groups that fit the same workers. `ready` holds those whose function has room, and of whose lanes one is ready. Never empty. */
export interface NeedQueue {
  readonly key: string;
  readonly need: Need;
  readonly groups: Map<string, Group>;
  readonly ready: Heap<Group>;
  /** What was first when the time was last told, and since when it is. */
  watched: QueuedItem | null;
  watchedSinceMs: number;
}

const firstOfLane = (lane: Lane): QueuedItem => lane.items.first!;
const firstOfGroup = (group: Group): QueuedItem => firstOfLane(group.ready.first!);

/** The attempt that goes next of those that fit the same workers; undefined when caps hold up all of them. */
export function headOf(queue: NeedQueue): QueuedItem | undefined {
  const group = queue.ready.first;
  return group === undefined ? undefined : firstOfGroup(group);
}

/**
 * What of one project waits, and what has a worker, as far as caps count it. Its queues show at any time what may go next: an attempt whose
 * function or key is full is in none of them.
 */
export class ProjectQueue {
  readonly queues = new Map<string, NeedQueue>();
  /** When something of it was placed last, by the count of placements; 0 for never. */
  servedTime = 0;
  readonly #functions = new Map<string, FunctionCap>();
  readonly #keys = new Map<string, KeyCap>();
  readonly #positions = new Positions();
  readonly #held = new Map<string, CapFacts>();
  readonly #laneOf = new Map<QueuedItem, Lane>();

  /** Nothing waits, nothing has a worker, and nothing else is to be remembered. */
  get isEmpty(): boolean {
    return this.#laneOf.size === 0 && this.#functions.size === 0;
  }

  add(item: QueuedItem): void {
    const lane = this.#lane(item);
    this.#laneOf.set(item, lane);
    lane.items.place(item);
    this.#positions.add(item.priority, item.order);
    refreshLane(lane);
  }

  delete(item: QueuedItem): void {
    const lane = this.#laneOf.get(item);
    if (lane === undefined) return;
    this.#laneOf.delete(item);
    this.#positions.delete(item.priority, item.order);
    lane.items.delete(item);
    refreshLane(lane);
    if (lane.items.size > 0) return;
    const { group, cap, key } = lane;
    group.lanes.delete(lane.name);
    cap?.lanes.delete(lane);
    if (key !== null) this.#forgetKey(key);
    if (group.lanes.size > 0) return;
    const { queue, functionId } = group;
    queue.groups.delete(functionId);
    group.cap.groups.delete(group);
    this.#forgetFunction(functionId);
    if (queue.groups.size === 0) this.queues.delete(queue.key);
  }

  /** It has a worker from now on. */
  hold(facts: CapFacts): void {
    const { attemptId, concurrency } = facts;
    if (this.#held.has(attemptId)) return;
    this.#held.set(attemptId, facts);
    const cap = this.#function(facts.function);
    cap.holders.add(attemptId);
    for (const group of cap.groups) refreshGroup(group);
    if (concurrency === null) return;
    const key = this.#key(concurrency.key);
    key.holders.add(attemptId);
    for (const lane of key.lanes) refreshLane(lane);
  }

  /** It has none any more. @returns whether that lets something go that a cap held up */
  release(attemptId: string): boolean {
    const facts = this.#held.get(attemptId);
    if (facts === undefined) return false;
    this.#held.delete(attemptId);
    const { function: of, concurrency } = facts;
    const cap = this.#functions.get(of.id)!;
    cap.holders.delete(attemptId);
    let isFreed = false;
    for (const group of cap.groups) isFreed = refreshGroup(group) || isFreed;
    this.#forgetFunction(of.id);
    if (concurrency === null) return isFreed;
    const key = this.#keys.get(concurrency.key)!;
    key.holders.delete(attemptId);
    for (const lane of key.lanes) isFreed = refreshLane(lane) || isFreed;
    this.#forgetKey(concurrency.key);
    return isFreed;
  }

  limitFunction(of: CapFacts['function']): void {
    this.#function(of).isTold = true;
  }

  /** Counts from 1. */
  positionOf(item: QueuedItem): number {
    return this.#positions.of(item.priority, item.order);
  }

  /** Null when no cap holds it up. */
  fullCapOf(item: QueuedItem): FullCap | null {
    const lane = this.#laneOf.get(item)!;
    const { cap, functionId } = lane.group;
    if (lane.key !== null && !hasKeyRoom(lane)) return { kind: 'key', key: lane.key, limit: lane.limit };
    return hasFunctionRoom(lane.group) ? null : { kind: 'function', functionId, limit: cap.limit };
  }

  #lane(item: QueuedItem): Lane {
    const group = this.#group(item);
    const { concurrency } = item;
    const name = concurrency === null ? '' : `${concurrency.limit}/${concurrency.key}`;
    let lane = group.lanes.get(name);
    if (lane === undefined) {
      const cap = concurrency === null ? null : this.#key(concurrency.key);
      const { key, limit } = concurrency ?? { key: null, limit: Infinity };
      lane = { group, name, key, limit, cap, items: new Heap(isBefore) };
      group.lanes.set(name, lane);
      cap?.lanes.add(lane);
    }
    return lane;
  }

  #group(item: QueuedItem): Group {
    const queue = this.#queue(item);
    const cap = this.#function(item.function);
    const functionId = item.function.id;
    let group = queue.groups.get(functionId);
    if (group === undefined) {
      const ready = new Heap<Lane>((one, other) => isBefore(firstOfLane(one), firstOfLane(other)));
      group = { queue, functionId, cap, lanes: new Map(), ready };
      queue.groups.set(functionId, group);
      cap.groups.add(group);
    }
    return group;
  }

  #queue(item: QueuedItem): NeedQueue {
    const key = needKey(item);
    let queue = this.queues.get(key);
    if (queue === undefined) {
      const { memoryMiB, cpus, diskMiB, isolation, egress } = item;
      const need = { memoryMiB, cpus, diskMiB, isolation, egress };
      const ready = new Heap<Group>((one, other) => isBefore(firstOfGroup(one), firstOfGroup(other)));
      queue = { key, need, groups: new Map(), ready, watched: null, watchedSinceMs: 0 };
      this.queues.set(key, queue);
    }
    return queue;
  }

  #function(of: CapFacts['function']): FunctionCap {
    let cap = this.#functions.get(of.id);
    if (cap === undefined) {
      cap = { holders: new Set(), limit: Infinity, version: 0, isTold: false, groups: new Set() };
      this.#functions.set(of.id, cap);
    }
    if (of.version > cap.version) {
      cap.version = of.version;
      cap.limit = of.limit ?? Infinity;
      for (const group of cap.groups) refreshGroup(group);
    }
    return cap;
  }

  #key(key: string): KeyCap {
    let cap = this.#keys.get(key);
    if (cap === undefined) {
      cap = { holders: new Set(), lanes: new Set() };
      this.#keys.set(key, cap);
    }
    return cap;
  }

  #forgetFunction(functionId: string): void {
    const { holders, groups, isTold } = this.#functions.get(functionId)!;
    if (holders.size === 0 && groups.size === 0 && !isTold) this.#functions.delete(functionId);
  }

  #forgetKey(key: string): void {
    const { holders, lanes } = this.#keys.get(key)!;
    if (holders.size === 0 && lanes.size === 0) this.#keys.delete(key);
  }
}

const hasKeyRoom = ({ cap, limit }: Lane): boolean => cap === null || cap.holders.size < limit;
const hasFunctionRoom = ({ cap }: Group): boolean => cap.holders.size < cap.limit;

/** Something of the lane, or its key's room, has changed. @returns whether something of it may go that could not */
function refreshLane(lane: Lane): boolean {
  const { group } = lane;
  const { size } = group.ready;
  if (lane.items.size > 0 && hasKeyRoom(lane)) group.ready.place(lane);
  else group.ready.delete(lane);
  const isFreed = group.ready.size > size;
  return refreshGroup(group) || (isFreed && hasFunctionRoom(group));
}

/** As `refreshLane`, for what its function allows. */
function refreshGroup(group: Group): boolean {
  const { queue } = group;
  const { size } = queue.ready;
  if (group.ready.size > 0 && hasFunctionRoom(group)) queue.ready.place(group);
  else queue.ready.delete(group);
  return queue.ready.size > size;
}
