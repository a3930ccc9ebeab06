import { canRun, type IsolationClass } from '@cocore/protocol';
import { Narrowing, SlotNumbers, SlotSet } from './slots.ts';
import type { Need, SchedulerItem, SchedulerShape } from './types.ts';

/** How many of an attempt's blobs placement looks at: image, code, and the first of its input. */
const WEIGHED_BLOBS = 8;
/** Needs of which it is known who has room; of these, the one that was asked for longest ago goes first. */
const MAX_NEEDS = 256;
/** Of a worker with more than 1 TiB or 256 CPUs left it does not matter how much more. */
const MEMORY_DIGITS = 20;
const CPU_DIGITS = 8;

/** A worker that is online, and the room that it has. */
export class Room implements SchedulerShape {
  readonly workerId: string;
  readonly isolation: IsolationClass;
  readonly egress: boolean;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
  readonly sandboxOverheadMiB: number;
  /** Its number while it is online: a small one, which another has later. */
  readonly slot: number;
  readonly attempts = new Map<string, SchedulerShape>();
  readonly blobs = new Set<string>();
  usedMemoryMiB = 0;
  usedCpus = 0;
  usedDiskMiB = 0;
  /** It has not refused anything since it last gave room back. */
  isOpen = true;
  /** What it was given is still on its way. */
  isBehind = false;
  isStopping = false;
  isDrained = false;
  isOnline = true;
  allowance = Infinity;
  notBeforeMs: number | null = null;
  /** The only attempt that it takes. */
  reservedFor: string | null = null;

  constructor(worker: Need & { workerId: string; sandboxOverheadMiB: number }, slot: number) {
    this.workerId = worker.workerId;
    this.isolation = worker.isolation;
    this.egress = worker.egress;
    this.memoryMiB = worker.memoryMiB;
    this.cpus = worker.cpus;
    this.diskMiB = worker.diskMiB;
    this.sandboxOverheadMiB = worker.sandboxOverheadMiB;
    this.slot = slot;
  }

  /** What an attempt may have of the memory that is left. */
  get memoryLeftMiB(): number {
    return this.memoryMiB - this.usedMemoryMiB - this.sandboxOverheadMiB;
  }

  get cpusLeft(): number {
    return this.cpus - this.usedCpus;
  }

  /** It has as many attempts as it has earned. */
  get isAtAllowance(): boolean {
    return this.attempts.size >= this.allowance;
  }

  /** It takes nothing, however much of its room is free. */
  get isOut(): boolean {
    return !this.isOnline || this.isStopping || this.isDrained || this.notBeforeMs !== null;
  }

  get isTaking(): boolean {
    return !this.isOut && this.isOpen && !this.isBehind && !this.isAtAllowance;
  }

  /** Whether it takes such an attempt now, were it not reserved. */
  hasRoom(need: Need): boolean {
    return (
      this.isTaking &&
      canRun(this, need) &&
      need.memoryMiB <= this.memoryLeftMiB &&
      need.cpus <= this.cpusLeft &&
      this.usedDiskMiB + need.diskMiB <= this.diskMiB
    );
  }

  /** Whether it could, were it empty. */
  couldRun(need: Need): boolean {
    return (
      canRun(this, need) &&
      need.memoryMiB + this.sandboxOverheadMiB <= this.memoryMiB &&
      need.cpus <= this.cpus &&
      need.diskMiB <= this.diskMiB
    );
  }

  take(attemptId: string, { memoryMiB, cpus, diskMiB }: SchedulerShape): void {
    this.attempts.set(attemptId, { memoryMiB, cpus, diskMiB });
    this.usedMemoryMiB += memoryMiB + this.sandboxOverheadMiB;
    this.usedCpus += cpus;
    this.usedDiskMiB += diskMiB;
  }

  giveBack(attemptId: string): void {
    const { memoryMiB, cpus, diskMiB } = this.attempts.get(attemptId)!;
    this.attempts.delete(attemptId);
    this.usedMemoryMiB -= memoryMiB + this.sandboxOverheadMiB;
    this.usedCpus -= cpus;
    this.usedDiskMiB -= diskMiB;
    this.isOpen = true;
  }
}

/** A need, and who has room for it. */
interface KnownNeed {
  readonly key: string;
  readonly need: Need;
  readonly fits: SlotSet;
  /** When it was asked for last, by the count of such questions. */
  askedTime: number;
}

/**
 * The workers that are online. Which of them takes an attempt best is not searched for but narrowed down, with bit sets of all workers: those that have room for
 * its need, kept as rooms change; of these those that have its blobs, one blob after the other; of these those with the least left. So a decision
 * costs the same however many functions there are, and a change costs the same however many workers.
 */
export class Rooms {
  readonly #rooms = new Map<string, Room>();
  readonly #bySlot: (Room | null)[] = [];
  readonly #freeSlots: number[] = [];
  readonly #needs = new Map<string, KnownNeed>();
  /** Who has told of a blob. */
  readonly #holders = new Map<string, SlotSet>();
  readonly #memoryLeft = new SlotNumbers(MEMORY_DIGITS);
  readonly #cpusLeft = new SlotNumbers(CPU_DIGITS);
  readonly #candidates = new Narrowing();
  #time = 0;

  get size(): number {
    return this.#rooms.size;
  }

  get(workerId: string): Room | undefined {
    return this.#rooms.get(workerId);
  }

  [Symbol.iterator](): Iterator<Room> {
    return this.#rooms.values();
  }

  add(worker: Need & { workerId: string; sandboxOverheadMiB: number }): Room {
    this.delete(worker.workerId);
    const slot = this.#freeSlots.pop() ?? this.#bySlot.length;
    const room = new Room(worker, slot);
    this.#bySlot[slot] = room;
    this.#rooms.set(room.workerId, room);
    this.changed(room);
    return room;
  }

  delete(workerId: string): Room | undefined {
    const room = this.#rooms.get(workerId);
    if (room === undefined) return undefined;
    this.#rooms.delete(workerId);
    for (const digest of room.blobs) this.#untell(digest, room);
    room.isOnline = false;
    this.changed(room);
    this.#bySlot[room.slot] = null;
    this.#freeSlots.push(room.slot);
    return room;
  }

  tellBlobs(workerId: string, added: readonly string[], removed: readonly string[]): void {
    const room = this.#rooms.get(workerId);
    if (room === undefined) return;
    for (const digest of removed) if (room.blobs.delete(digest)) this.#untell(digest, room);
    for (const digest of added) {
      room.blobs.add(digest);
      let holders = this.#holders.get(digest);
      if (holders === undefined) this.#holders.set(digest, (holders = new SlotSet()));
      holders.add(room.slot);
    }
  }

  /** Whatever a placement depends on may be otherwise now, but for its blobs. */
  changed(room: Room): void {
    // One that went offline before its slot was another's.
    if (this.#bySlot[room.slot] !== room) return;
    for (const known of this.#needs.values()) note(known, room);
    this.#memoryLeft.set(room.slot, room.memoryLeftMiB);
    this.#cpusLeft.set(room.slot, room.cpusLeft);
  }

  /** Whether anything takes attempts of this need now. */
  hasRoom(need: Need, key: string): boolean {
    return this.#fits(need, key).size > 0;
  }

  /** Where an attempt of this need goes, by what of its blobs is there; null when nothing takes it. */
  best(item: Need & Pick<SchedulerItem, 'blobs'>, key: string): Room | null {
    const candidates = this.#candidates;
    candidates.begin(this.#fits(item, key));
    for (let at = 0; at < item.blobs.length && at < WEIGHED_BLOBS; at += 1) {
      const holders = this.#holders.get(item.blobs[at]!);
      if (holders !== undefined) candidates.withinIfAny(holders);
    }
    this.#memoryLeft.keepLeast(candidates);
    this.#cpusLeft.keepLeast(candidates);
    return candidates.first === null ? null : this.#bySlot[candidates.first]!;
  }

  /** Those that have room for it now. */
  #fits(need: Need, key: string): SlotSet {
    let known = this.#needs.get(key);
    if (known === undefined) {
      if (this.#needs.size >= MAX_NEEDS) this.#forgetOldestNeed();
      const { memoryMiB, cpus, diskMiB, isolation, egress } = need;
      known = { key, need: { memoryMiB, cpus, diskMiB, isolation, egress }, fits: new SlotSet(), askedTime: 0 };
      for (const room of this.#rooms.values()) note(known, room);
      this.#needs.set(key, known);
    }
    this.#time += 1;
    known.askedTime = this.#time;
    return known.fits;
  }

  #forgetOldestNeed(): void {
    let oldest: KnownNeed | null = null;
    for (const known of this.#needs.values()) {
      if (oldest === null || known.askedTime < oldest.askedTime) oldest = known;
    }
    this.#needs.delete(oldest!.key);
  }

  #untell(digest: string, room: Room): void {
    const holders = this.#holders.get(digest)!;
    holders.delete(room.slot);
    if (holders.size === 0) this.#holders.delete(digest);
  }
}

function note({ need, fits }: KnownNeed, room: Room): void {
  if (room.reservedFor === null && room.hasRoom(need)) fits.add(room.slot);
  else fits.delete(room.slot);
}
