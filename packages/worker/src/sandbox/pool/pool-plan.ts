/** What the plan needs to know of the time: all in milliseconds, `nowMs` by any clock that does not go back. */
export interface PoolPlanOptions {
  /** How fast old arrivals are forgotten: after this, half of their weight is left. */
  readonly halfLifeMs: number;
  /** A shape that nobody asked for in this time has no sandboxes waiting. */
  readonly idleMs: number;
  /** No shape has more than this. */
  readonly most: number;
}

export const DEFAULT_POOL_PLAN: PoolPlanOptions = { halfLifeMs: 30_000, idleMs: 5 * 60_000, most: 16 };

/** Until a start was measured. */
const FIRST_GUESS_MS = 500;

/**
 * How many sandboxes of one shape should wait, from how often one is asked for. Pure.
 *
 * While one sandbox is made, `rate × time to make it` more are asked for on average; twice the square root of that on top covers all
 * but one burst in forty, if arrivals are independent.
 */
export class PoolPlan {
  readonly #options: PoolPlanOptions;
  /** Arrivals, each weighted by its age, as of `#atMs`. */
  #weight = 0;
  #atMs = 0;
  #lastMs: number | null = null;
  #makeMs = FIRST_GUESS_MS;

  constructor(options: PoolPlanOptions = DEFAULT_POOL_PLAN) {
    this.#options = options;
  }

  arrived(nowMs: number): void {
    this.#weight = this.#weightAt(nowMs) + 1;
    this.#atMs = nowMs;
    this.#lastMs = nowMs;
  }

  /** A sandbox took this long to be made. */
  made(tookMs: number): void {
    this.#makeMs += (tookMs - this.#makeMs) / 4;
  }

  target(nowMs: number): number {
    if (this.#lastMs === null || nowMs - this.#lastMs >= this.#options.idleMs) return 0;
    // The weights of arrivals at a steady rate add up to the rate times the mean life, which is half-life / ln 2.
    const perMs = (this.#weightAt(nowMs) * Math.LN2) / this.#options.halfLifeMs;
    const meanwhile = perMs * this.#makeMs;
    return Math.min(this.#options.most, Math.max(1, Math.ceil(meanwhile + 2 * Math.sqrt(meanwhile))));
  }

  #weightAt(nowMs: number): number {
    return this.#weight * 2 ** ((this.#atMs - nowMs) / this.#options.halfLifeMs);
  }
}
