import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../../tests/faults/random.ts';
import { canRun, type IsolationClass } from '@cocore/protocol';
import { Scheduler, type SchedulerItem } from '../src/scheduler/scheduler.ts';

interface ModelWorker {
  readonly id: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
  readonly sandboxOverheadMiB: number;
  readonly isolation: IsolationClass;
  readonly egress: boolean;
  isOnline: boolean;
  isOpen: boolean;
  isBehind: boolean;
  allowance: number;
  notBeforeMs: number | null;
}

const CLASSES = ['microvm', 'gvisor', 'emulated', 'container'] as const;

/** What is true, kept in the simplest way, beside a scheduler that is told the same. It holds every answer of the scheduler against it. */
class Model {
  readonly scheduler = new Scheduler();
  readonly waiting = new Map<string, SchedulerItem & { order: number }>();
  /** With a worker, or with one that is away. */
  readonly held = new Map<string, { item: SchedulerItem; workerId: string }>();
  readonly workers: ModelWorker[];
  readonly limits = new Map<string, number | null>();
  readonly versions = new Map<string, number>();
  readonly placedTimes = new Map<string, number>();
  nowMs = 0;
  #order = 0;
  readonly #pick: (count: number) => number;

  constructor(random: Random) {
    this.#pick = (count) => random.int(0, count - 1);
    this.workers = Array.from({ length: 12 }, (_, at) => ({
      id: `w${at}`,
      memoryMiB: [512, 1024, 2048, 4096][this.#pick(4)]!,
      cpus: 1 + this.#pick(8),
      diskMiB: 512 * (1 + this.#pick(8)),
      sandboxOverheadMiB: [0, 32][this.#pick(2)]!,
      isolation: at === 0 ? 'microvm' : CLASSES[this.#pick(4)]!,
      egress: at === 0 || this.#pick(2) === 0,
      isOnline: false,
      isOpen: true,
      isBehind: false,
      allowance: Infinity,
      notBeforeMs: null,
    }));
    // One that could run everything, so that nothing waits for ever.
    Object.assign(this.workers[0]!, { memoryMiB: 4096, cpus: 8, diskMiB: 4096 });
  }

  step(): void {
    const worker = this.workers[this.#pick(this.workers.length)]!;
    const { id: workerId } = worker;
    switch (this.#pick(13)) {
      case 0:
        if (worker.isOnline) this.#goOffline(worker);
        else this.goOnline(worker);
        break;
      case 1:
        if (!worker.isOnline) break;
        worker.allowance = 1 + this.#pick(6);
        worker.notBeforeMs = this.#pick(3) === 0 ? this.nowMs + this.#pick(20_000) : null;
        this.scheduler.apply({
          type: 'worker_trust',
          workerId,
          allowance: worker.allowance,
          notBeforeMs: worker.notBeforeMs,
        });
        break;
      case 2:
        worker.isOpen = this.#pick(2) === 0;
        this.scheduler.apply({ type: worker.isOpen ? 'worker_opened' : 'worker_closed', workerId });
        break;
      case 3:
        this.passTime(this.#pick(20_000));
        break;
      case 4:
        this.#deploy();
        break;
      case 5:
        this.scheduler.apply({
          type: 'worker_blobs',
          workerId,
          added: [`b${this.#pick(5)}`],
          removed: [`b${this.#pick(5)}`],
        });
        break;
      case 6: {
        const cancelled = this.#anyOf(this.waiting);
        if (cancelled === undefined) break;
        this.waiting.delete(cancelled);
        this.scheduler.apply({ type: 'dequeued', attemptId: cancelled });
        break;
      }
      case 7:
      case 8: {
        const ended = this.#anyOf(this.held);
        if (ended !== undefined) this.release(ended);
        break;
      }
      case 9:
        worker.isBehind = worker.isOnline && this.#pick(2) === 0;
        this.scheduler.apply({ type: 'worker_behind', workerId, behind: worker.isBehind });
        break;
      default:
        if (this.waiting.size < 150) this.#enqueue();
    }
    this.placeAll();
  }

  goOnline(worker: ModelWorker): void {
    worker.isOnline = true;
    worker.isOpen = true;
    worker.isBehind = false;
    worker.allowance = Infinity;
    worker.notBeforeMs = null;
    const attempts = [...this.held.values()].filter(({ workerId }) => workerId === worker.id).map(({ item }) => item);
    this.scheduler.apply({ type: 'worker_online', workerId: worker.id, ...worker, attempts });
  }

  #goOffline(worker: ModelWorker): void {
    worker.isOnline = false;
    this.scheduler.apply({ type: 'worker_offline', workerId: worker.id });
  }

  passTime(ms: number): void {
    this.nowMs += ms;
    for (const worker of this.workers) {
      if (worker.notBeforeMs !== null && worker.notBeforeMs <= this.nowMs) worker.notBeforeMs = null;
    }
    this.scheduler.apply({ type: 'time', nowMs: this.nowMs });
  }

  release(attemptId: string): void {
    const { workerId } = this.held.get(attemptId)!;
    this.held.delete(attemptId);
    const worker = this.workers.find(({ id }) => id === workerId)!;
    if (worker.isOnline) worker.isOpen = true;
    this.scheduler.apply({ type: 'released', attemptId });
  }

  /** Takes all placements that there are, and looks at each, and that there is none more. */
  placeAll(): void {
    for (let next = this.scheduler.next(); next !== null; next = this.scheduler.next()) {
      const { attemptId, workerId } = next;
      const item = this.waiting.get(attemptId);
      assert.ok(item !== undefined, `${attemptId} does not wait`);
      const worker = this.workers.find(({ id }) => id === workerId)!;
      assert.equal(this.#fullCap(item), null, `${attemptId} is over a cap`);
      assert.ok(this.#hasRoom(worker, item), `${workerId} has no room for ${attemptId}`);
      this.waiting.delete(attemptId);
      this.held.set(attemptId, { item, workerId });
      this.placedTimes.set(attemptId, (this.placedTimes.get(attemptId) ?? 0) + 1);
    }
    for (const item of this.waiting.values()) {
      const why = this.scheduler.why(item.attemptId);
      assert.ok(why !== null, `${item.attemptId} waits for nothing`);
      assert.equal(why.code === 'cap', this.#fullCap(item) !== null, `${item.attemptId}: ${why.message}`);
      assert.equal(why.position, this.#positionOf(item));
      if (why.code !== 'busy' || /kept for a larger one/.test(why.message)) continue;
      assert.ok(
        !this.workers.some((worker) => this.#hasRoom(worker, item)),
        `${item.attemptId} has room: ${why.message}`,
      );
    }
  }

  #positionOf({ projectId, priority, order }: SchedulerItem & { order: number }): number {
    let before = 0;
    for (const other of this.waiting.values()) {
      if (other.projectId !== projectId) continue;
      if (other.priority > priority || (other.priority === priority && other.order < order)) before += 1;
    }
    return before + 1;
  }

  #hasRoom(worker: ModelWorker, item: SchedulerItem): boolean {
    if (!worker.isOnline || !worker.isOpen || worker.isBehind || worker.notBeforeMs !== null) return false;
    if (!canRun(worker, item)) return false;
    const mine = [...this.held.values()].filter(({ workerId }) => workerId === worker.id).map((one) => one.item);
    const sum = (of: (one: SchedulerItem) => number) => [...mine, item].reduce((total, one) => total + of(one), 0);
    return (
      mine.length < worker.allowance &&
      sum((one) => one.memoryMiB + worker.sandboxOverheadMiB) <= worker.memoryMiB &&
      sum((one) => one.cpus) <= worker.cpus &&
      sum((one) => one.diskMiB) <= worker.diskMiB
    );
  }

  #fullCap(item: SchedulerItem): 'function' | 'key' | null {
    const items = [...this.held.values()].map((one) => one.item).filter((one) => one.projectId === item.projectId);
    const { concurrency } = item;
    if (concurrency !== null) {
      const ofKey = items.filter((one) => one.concurrency?.key === concurrency.key).length;
      if (ofKey >= concurrency.limit) return 'key';
    }
    const limit = this.limits.get(`${item.projectId}/${item.function.id}`) ?? null;
    const ofFunction = items.filter((one) => one.function.id === item.function.id).length;
    return limit !== null && ofFunction >= limit ? 'function' : null;
  }

  #deploy(): void {
    const projectId = `p${this.#pick(3)}`;
    const id = `f${this.#pick(4)}`;
    const name = `${projectId}/${id}`;
    const version = (this.versions.get(name) ?? 1) + 1;
    const limit = [null, 1, 2, 5][this.#pick(4)]!;
    this.versions.set(name, version);
    this.limits.set(name, limit);
    this.scheduler.apply({ type: 'function_limit', projectId, function: { id, version, limit } });
  }

  #enqueue(): void {
    this.#order += 1;
    const projectId = `p${this.#pick(3)}`;
    const id = `f${this.#pick(4)}`;
    const name = `${projectId}/${id}`;
    const item = {
      attemptId: `a${this.#order}`,
      projectId,
      function: { id, version: this.versions.get(name) ?? 1, limit: this.limits.get(name) ?? null },
      concurrency: this.#pick(2) === 0 ? null : { key: `k${this.#pick(4)}`, limit: 1 + this.#pick(3) },
      priority: this.#pick(5) - 2,
      memoryMiB: [128, 256, 512, 2048][this.#pick(4)]!,
      cpus: [1, 1, 2, 4][this.#pick(4)]!,
      diskMiB: 512,
      isolation: CLASSES[this.#pick(4)]!,
      egress: this.#pick(4) === 0,
      blobs: [`b${this.#pick(8)}`, `b${this.#pick(8)}`],
    };
    this.waiting.set(item.attemptId, { ...item, order: this.#order });
    this.scheduler.apply({ type: 'queued', ...item });
  }

  #anyOf(map: ReadonlyMap<string, unknown>): string | undefined {
    return [...map.keys()][this.#pick(map.size)];
  }
}

for (const seed of [1, 2, 3, 4]) {
  test(`10,000 random events of seed ${seed}, no limit is ever exceeded, nothing waits that could go, and at the end everything was placed once`, () => {
    const model = new Model(new Random(String(seed)));
    for (let count = 0; count < 10_000; count += 1) model.step();
    const seen = [...model.placedTimes.values()];
    assert.ok(seen.length > 1_000, `${seen.length} were placed`);
    for (const worker of model.workers) model.goOnline(worker);
    model.placeAll();
    for (let rounds = 0; model.waiting.size > 0; rounds += 1) {
      assert.ok(rounds < 10_000, `${model.waiting.size} wait for ever`);
      for (const attemptId of [...model.held.keys()]) model.release(attemptId);
      model.passTime(1_000);
      model.placeAll();
    }
    assert.ok([...model.placedTimes.values()].every((times) => times === 1));
    for (const attemptId of [...model.held.keys()]) model.release(attemptId);
    for (const { id } of model.workers)
      assert.deepEqual(model.scheduler.usage(id), { memoryMiB: 0, cpus: 0, attempts: 0 });
  });
}
