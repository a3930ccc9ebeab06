import { headOf, type NeedQueue, type QueuedItem } from './project-queue.ts';
import type { Room, Rooms } from './rooms.ts';
import type { Need } from './types.ts';

/** An attempt that was the first of its project and need for so long, and for which there was no room, gets a worker reserved. */
export const RESERVE_AFTER_MS = 30_000;
/** A reservation that did not come to anything for so long is given up: what runs there may run for a day, and the rest of the room lies idle. */
export const RESERVED_MS = 5 * 60_000;
/** At most so many at once, and no more than one in this many workers; one in any case. */
const MAX_RESERVED = 16;
const WORKERS_PER_RESERVATION = 8;

interface Reservation {
  readonly item: QueuedItem;
  readonly queue: NeedQueue;
  readonly room: Room;
  readonly untilMs: number;
}

/**
 * Keeps a large attempt from starving behind small ones, which take every bit of room before there is enough for it: a worker that could run it takes nothing else
 * until its room is large enough.
 */
export class Reservations {
  readonly #rooms: Rooms;
  readonly #byAttempt = new Map<string, Reservation>();

  constructor(rooms: Rooms) {
    this.#rooms = rooms;
  }

  /** One whose room is large enough now, and which no cap holds up. */
  due(): { readonly item: QueuedItem; readonly room: Room } | null {
    for (const reservation of this.#byAttempt.values()) {
      const { item, queue, room } = reservation;
      if (headOf(queue) === item && room.hasRoom(item)) return reservation;
    }
    return null;
  }

  /** The attempt does not wait any more. @returns the room that takes others again */
  cancel(attemptId: string): Room | null {
    const reservation = this.#byAttempt.get(attemptId);
    if (reservation === undefined) return null;
    this.#byAttempt.delete(attemptId);
    reservation.room.reservedFor = null;
    return reservation.room;
  }

  /** The worker is gone. */
  drop(room: Room): void {
    if (room.reservedFor !== null) this.cancel(room.reservedFor);
  }

  /** Looks at who waits how long. @returns the rooms of which something is otherwise now */
  review(queues: Iterable<NeedQueue>, nowMs: number): Room[] {
    const changed: Room[] = [];
    for (const { item, queue, room, untilMs } of [...this.#byAttempt.values()]) {
      if (nowMs < untilMs && headOf(queue) === item && !room.isOut) continue;
      this.cancel(item.attemptId);
      queue.watchedSinceMs = nowMs;
      changed.push(room);
    }
    const late: NeedQueue[] = [];
    for (const queue of queues) {
      const head = headOf(queue) ?? null;
      if (head !== queue.watched) {
        queue.watched = head;
        queue.watchedSinceMs = nowMs;
      } else if (head !== null && nowMs - queue.watchedSinceMs >= RESERVE_AFTER_MS) late.push(queue);
    }
    late.sort((one, other) => one.watchedSinceMs - other.watchedSinceMs);
    const most = Math.min(MAX_RESERVED, Math.max(1, Math.floor(this.#rooms.size / WORKERS_PER_RESERVATION)));
    for (const queue of late) {
      if (this.#byAttempt.size >= most) break;
      const item = queue.watched!;
      if (this.#byAttempt.has(item.attemptId)) continue;
      const room = this.#nearest(queue.need);
      if (room === null) continue;
      room.reservedFor = item.attemptId;
      this.#byAttempt.set(item.attemptId, { item, queue, room, untilMs: nowMs + RESERVED_MS });
      changed.push(room);
    }
    return changed;
  }

  /** The worker that lacks the least room for it; of those that lack the same, the smallest. */
  #nearest(need: Need): Room | null {
    let nearest: Room | null = null;
    for (const room of this.#rooms) {
      if (room.reservedFor !== null || room.isOut || !room.couldRun(need)) continue;
      if (nearest === null || isNearer(room, nearest, need)) nearest = room;
    }
    return nearest;
  }
}

function isNearer(one: Room, other: Room, need: Need): boolean {
  const memory = (room: Room) => Math.max(0, need.memoryMiB - room.memoryLeftMiB);
  const cpus = (room: Room) => Math.max(0, need.cpus - room.cpusLeft);
  if (memory(one) !== memory(other)) return memory(one) < memory(other);
  if (cpus(one) !== cpus(other)) return cpus(one) < cpus(other);
  return one.memoryMiB < other.memoryMiB;
}
