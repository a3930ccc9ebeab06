import { AsyncLocalStorage } from 'node:async_hooks';
import type { Random } from '../faults/random.ts';

/** The host of a process, as far as its clock goes. */
export interface HostClock {
  /** What its time of day is ahead of the world's. */
  wallAheadMs: number;
}

/** One life of one process. What it asked for, timers above all, belongs to it: a dead one's never comes, a frozen one's comes when it goes on. */
export class Life {
  readonly name: string;
  readonly host: HostClock;
  frozenUntilMs = 0;
  #isAlive = true;

  constructor(name: string, host: HostClock) {
    this.name = name;
    this.host = host;
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** As SIGKILL does: at once, and nothing of it runs any more. */
  end(): void {
    this.#isAlive = false;
  }
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  /** Whose it is; null for the world's own. */
  readonly life: Life | null;
  readonly run: () => void;
  isCancelled: boolean;
}

/** What `later` gives, to take it back. */
export interface Later {
  cancel(): void;
}

/** A scenario that does more than this goes in a circle. */
const MAX_EVENTS = 3_000_000;
/** The time of day at the beginning. */
export const EPOCH_MS = Date.UTC(2026, 0, 1);

const realImmediate = setImmediate;
const lives = new AsyncLocalStorage<Life>();

/** The life whose code runs now; undefined outside of a simulation. */
export const currentLife = (): Life | undefined => lives.getStore();

/**
 * Time, as a queue of events. One runs after the other, each to its end with all promises that it settles, so that nothing but the seed decides what
 * comes before what.
 */
export class World {
  readonly random: Random;
  readonly #log: ((line: string) => void) | null;
  /** Ascending; the next is last. */
  readonly #events: Event[] = [];
  #nowMs = 0;
  #order = 0;
  #count = 0;

  constructor(random: Random, log: ((line: string) => void) | null = null) {
    this.random = random;
    this.#log = log;
  }

  /** Since the beginning. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** How many events have run. */
  get count(): number {
    return this.#count;
  }

  get isLogged(): boolean {
    return this.#log !== null;
  }

  log(line: string): void {
    this.#log?.(`${(this.#nowMs / 1000).toFixed(3).padStart(9)}  ${line}`);
  }

  wallMs(host: HostClock): number {
    return Math.floor(EPOCH_MS + this.#nowMs + host.wallAheadMs);
  }

  /** Since the boot of every host. Right to 10 ms, as the kernel's is. */
  readonly uptimeMs = (): number => 1_000_000 + Math.floor(this.#nowMs / 10) * 10;

  /** Runs something in a life after a while; what is due at once runs in the order in which it was asked for. */
  later(delayMs: number, life: Life | null, run: () => void): Later {
    this.#order += 1;
    const event: Event = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      order: this.#order,
      life,
      run,
      isCancelled: false,
    };
    this.#insert(event);
    return { cancel: () => (event.isCancelled = true) };
  }

  /** Runs something in a life, now. */
  within<T>(life: Life, run: () => T): T {
    return lives.run(life, run);
  }

  /** Lets time pass until something is true, asked after each event, or for so long at most. */
  async run(isOver: () => boolean, limitMs: number): Promise<void> {
    const untilMs = this.#nowMs + limitMs;
    while (!isOver()) {
      const event = this.#events.at(-1);
      if (event === undefined || event.atMs > untilMs) {
        this.#nowMs = untilMs;
        return;
      }
      this.#events.pop();
      if (event.isCancelled || event.life?.isAlive === false) continue;
      this.#nowMs = Math.max(this.#nowMs, event.atMs);
      if (event.life !== null && event.life.frozenUntilMs > this.#nowMs) {
        this.#insert({ ...event, atMs: event.life.frozenUntilMs });
        continue;
      }
      this.#count += 1;
      if (this.#count > MAX_EVENTS) throw new Error(`more than ${MAX_EVENTS} events`);
      if (event.life === null) event.run();
      else lives.run(event.life, event.run);
      // Promises and ticks come before it, however many there are.
      await new Promise(realImmediate);
    }
  }

  #insert(event: Event): void {
    const events = this.#events;
    let [from, to] = [0, events.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (isLater(events[middle]!, event)) from = middle + 1;
      else to = middle;
    }
    events.splice(from, 0, event);
  }
}

const isLater = (one: Event, other: Event): boolean =>
  one.atMs > other.atMs || (one.atMs === other.atMs && one.order > other.order);
