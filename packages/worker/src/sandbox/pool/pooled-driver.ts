import type { Logger } from 'pino';
import type { HostCheck } from '../../host/check.ts';
import { awakeClock, type Clock } from '../../host/clock.ts';
import type {
  BlankSandbox,
  BlankSandboxes,
  DriverCapabilities,
  Sandbox,
  SandboxDriver,
  SandboxHandle,
  SandboxShape,
  SandboxSpec,
} from '../driver.ts';
import { DEFAULT_POOL_PLAN, PoolPlan, type PoolPlanOptions } from './pool-plan.ts';

export interface PooledDriverOptions {
  readonly driver: SandboxDriver & BlankSandboxes;
  /** How much memory may be held by sandboxes that wait, now: what the owner leased and no attempt has, and nobody on the host misses. */
  readonly roomMiB: () => number;
  readonly plan?: PoolPlanOptions;
  readonly clock?: Clock;
  /** How often the pool looks whether it is too large. */
  readonly lookMs?: number;
  readonly log?: Logger;
}

/** Sandboxes of one shape. */
interface Shelf {
  readonly shape: SandboxShape;
  readonly plan: PoolPlan;
  /** Oldest first. */
  readonly waiting: BlankSandbox[];
  making: number;
  /** A shape whose sandboxes cannot be made is left alone until then. */
  pausedUntilMs: number;
}

/** After a sandbox could not be made, or ended while it waited. */
const PAUSE_MS = 10_000;

/**
 * A driver that keeps sandboxes of the shapes that are asked for ready to be filled; the driver behind it stays its maker's. What waits is always given up for attempts: its memory is
 * only what they leave.
 */
export class PooledDriver implements SandboxDriver {
  readonly capabilities: DriverCapabilities;
  readonly #driver: SandboxDriver & BlankSandboxes;
  readonly #options: PooledDriverOptions;
  readonly #clock: Clock;
  readonly #shelves = new Map<string, Shelf>();
  readonly #under = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  readonly #timer: NodeJS.Timeout;
  /** A sandbox of an earlier life may still be there, under the name that it had in the pool. */
  readonly #life = process.hrtime.bigint();
  #serial = 0;

  constructor(options: PooledDriverOptions) {
    this.#options = options;
    this.#driver = options.driver;
    this.#clock = options.clock ?? awakeClock;
    this.capabilities = options.driver.capabilities;
    this.#timer = setInterval(() => this.#balance(), options.lookMs ?? 1_000).unref();
  }

  probe(): Promise<HostCheck[]> {
    return this.#driver.probe();
  }

  prepare(kept?: readonly SandboxHandle[]): Promise<void> {
    return this.#driver.prepare(kept);
  }

  recover(handle: SandboxHandle): Promise<Sandbox | null> {
    return this.#driver.recover(handle);
  }

  /** How many sandboxes wait, of all shapes. */
  get ready(): number {
    return [...this.#shelves.values()].reduce((sum, { waiting }) => sum + waiting.length, 0);
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    signal.throwIfAborted();
    // What waits has no network card.
    if (spec.network !== undefined) return this.#driver.start(spec, signal);
    const shelf = this.#shelf(spec);
    shelf.plan.arrived(this.#clock());
    const taken = shelf.waiting.shift();
    this.#balance();
    if (taken === undefined) return this.#driver.start(spec, signal);
    let sandbox: Sandbox;
    try {
      sandbox = await taken.fill(spec);
    } catch (err) {
      this.#options.log?.warn({ err }, 'a waiting sandbox could not be filled, and another one is started');
      return this.#driver.start(spec, signal);
    }
    if (signal.aborted) {
      await sandbox.destroy();
      signal.throwIfAborted();
    }
    return sandbox;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#stop.abort(new Error('the pool is closed'));
    for (const { waiting } of this.#shelves.values()) for (const one of waiting.splice(0)) this.#discard(one);
    await Promise.all(this.#under);
  }

  #shelf({ memoryMiB, cpus, scratchMiB }: SandboxShape): Shelf {
    const key = `${memoryMiB}/${cpus}/${scratchMiB}`;
    let shelf = this.#shelves.get(key);
    if (shelf === undefined) {
      const plan = new PoolPlan(this.#options.plan ?? DEFAULT_POOL_PLAN);
      shelf = { shape: { memoryMiB, cpus, scratchMiB }, plan, waiting: [], making: 0, pausedUntilMs: 0 };
      this.#shelves.set(key, shelf);
    }
    return shelf;
  }

  #cost({ memoryMiB }: SandboxShape): number {
    return Math.ceil(memoryMiB * (1 + this.capabilities.overheadRatio)) + this.capabilities.overheadMiB;
  }

  /** Gives up what is too much, then makes what is missing and has room. */
  #balance(): void {
    if (this.#stop.signal.aborted) return;
    const nowMs = this.#clock();
    let leftMiB = this.#options.roomMiB();
    for (const shelf of this.#shelves.values()) {
      const cost = this.#cost(shelf.shape);
      const wanted = Math.min(shelf.plan.target(nowMs), Math.max(0, Math.floor(leftMiB / cost)));
      while (shelf.waiting.length + shelf.making > wanted && shelf.waiting.length > 0) {
        this.#discard(shelf.waiting.shift()!);
      }
      while (shelf.waiting.length + shelf.making < wanted && nowMs >= shelf.pausedUntilMs) this.#make(shelf);
      leftMiB -= (shelf.waiting.length + shelf.making) * cost;
    }
  }

  #make(shelf: Shelf): void {
    shelf.making += 1;
    this.#serial += 1;
    const began = this.#clock();
    const make = async () => {
      try {
        const blank = await this.#driver.startBlank(
          `pool_${this.#life}_${this.#serial}`,
          shelf.shape,
          this.#stop.signal,
        );
        shelf.plan.made(this.#clock() - began);
        if (this.#stop.signal.aborted) return await blank[Symbol.asyncDispose]();
        shelf.waiting.push(blank);
        void blank.exited.then(() => this.#lost(shelf, blank));
      } catch (err) {
        if (this.#stop.signal.aborted) return;
        shelf.pausedUntilMs = this.#clock() + PAUSE_MS;
        this.#options.log?.warn({ err }, 'a sandbox could not be made ready');
      } finally {
        shelf.making -= 1;
      }
    };
    this.#track(make());
  }

  /** One that waited has ended by itself. */
  #lost(shelf: Shelf, blank: BlankSandbox): void {
    const at = shelf.waiting.indexOf(blank);
    if (at < 0) return;
    shelf.waiting.splice(at, 1);
    shelf.pausedUntilMs = this.#clock() + PAUSE_MS;
    this.#discard(blank);
  }

  #discard(blank: BlankSandbox): void {
    const dispose = async () => {
      try {
        await blank[Symbol.asyncDispose]();
      } catch (err) {
        this.#options.log?.error({ err }, 'a waiting sandbox could not be removed whole');
      }
    };
    this.#track(dispose());
  }

  #track(work: Promise<void>): void {
    this.#under.add(work);
    void work.finally(() => this.#under.delete(work));
  }
}
