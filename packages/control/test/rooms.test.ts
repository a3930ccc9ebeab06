import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../../tests/faults/random.ts';
import { needKey } from '../src/scheduler/project-queue.ts';
import { type Room, Rooms } from '../src/scheduler/rooms.ts';
import type { Need } from '../src/scheduler/types.ts';

const CLASSES = ['microvm', 'gvisor'] as const;

/** Workers that come, go, fill and empty, fetch and forget; and what placement would find by looking at each of them. */
class Fleet {
  readonly rooms = new Rooms();
  readonly #random: Random;
  #lastId = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  change(): void {
    const random = this.#random;
    const all = [...this.rooms];
    const room = all.length === 0 ? undefined : random.pick(all);
    const act = random.int(0, 9);
    if (room === undefined || (act === 0 && all.length < 400)) this.#join();
    else if (act === 1 && all.length > 100) this.rooms.delete(room.workerId);
    else if (act === 2) this.rooms.tellBlobs(room.workerId, [this.#blob()], [this.#blob()]);
    else if (act === 3) this.#set(room, () => (room.reservedFor = random.chance(0.2) ? 'another' : null));
    else if (act === 4) this.#set(room, () => (room.isBehind = random.chance(0.2)));
    else if (act <= 6 && room.attempts.size > 0) {
      this.#set(room, () => room.giveBack(room.attempts.keys().next().value!));
    } else this.#fill(room);
  }

  need(): Need & { blobs: string[] } {
    const random = this.#random;
    return {
      memoryMiB: random.pick([128, 256, 512, 2_048]),
      cpus: random.pick([1, 2, 4]),
      diskMiB: 512,
      isolation: random.pick(CLASSES),
      egress: random.chance(0.3),
      blobs: [this.#blob(), this.#blob()],
    };
  }

  /** What matters of a room, the first the most; the less the better. */
  merits(room: Room, { blobs }: { blobs: readonly string[] }): number[] {
    const missing = blobs.map((digest) => (room.blobs.has(digest) ? 0 : 1));
    return [...missing, Math.floor(room.memoryLeftMiB), Math.floor(room.cpusLeft)];
  }

  candidates(need: Need): Room[] {
    return [...this.rooms].filter((room) => room.reservedFor === null && room.hasRoom(need));
  }

  #join(): void {
    const random = this.#random;
    this.#lastId += 1;
    this.rooms.add({
      workerId: `w${this.#lastId}`,
      memoryMiB: random.pick([1_024, 4_096, 8_000.5]),
      cpus: random.pick([2, 7.5, 16]),
      diskMiB: random.int(2, 40) * 512,
      isolation: random.pick(CLASSES),
      egress: random.chance(0.5),
      sandboxOverheadMiB: random.pick([0, 32]),
    });
  }

  #fill(room: Room): void {
    const need = this.need();
    this.#lastId += 1;
    if (room.hasRoom(need)) this.#set(room, () => room.take(`a${this.#lastId}`, need));
  }

  #set(room: Room, change: () => void): void {
    change();
    this.rooms.changed(room);
  }

  #blob(): string {
    // Some that most have, many that few have.
    return `b${Math.floor(60 * this.#random.next() ** 3)}`;
  }
}

const least = (one: readonly number[], other: readonly number[]): number => {
  const at = one.findIndex((value, place) => value !== other[place]);
  return at < 0 ? 0 : one[at]! - other[at]!;
};

for (const seed of ['1', '2', '3']) {
  test(`5,000 changes of a fleet of seed ${seed}, the best worker is the one that looking at each of them finds`, () => {
    const fleet = new Fleet(new Random(seed));
    let found = 0;
    for (let count = 0; count < 5_000; count += 1) {
      fleet.change();
      const need = fleet.need();
      const best = fleet.rooms.best(need, needKey(need));
      const candidates = fleet.candidates(need);
      assert.equal(fleet.rooms.hasRoom(need, needKey(need)), candidates.length > 0);
      if (candidates.length === 0) {
        assert.equal(best, null);
        continue;
      }
      found += 1;
      assert.ok(best !== null && candidates.includes(best), 'it has room');
      const merits = candidates.map((room) => fleet.merits(room, need)).sort(least);
      assert.deepEqual(fleet.merits(best, need), merits[0]);
    }
    assert.ok(found > 1_000, `${found} were found`);
  });
}
