import { CocoreError, CPU_SHAPES, DEFAULT_IDEMPOTENCY_TTL_MS, MEMORY_SHAPES_MIB } from '@cocore/protocol';

/** What one project may have. */
export interface Limits {
  /** Executions that are open or running. */
  readonly maxLiveExecutions: number;
  /** Executions that wait for a worker: of the project, and of one of its functions. */
  readonly maxQueuedExecutions: number;
  readonly maxQueuedOfFunction: number;
  readonly maxFunctions: number;
  /** Uploaded and deployed bytes together. */
  readonly maxBlobBytes: number;
  /** How long an idempotency key of its requests holds. */
  readonly idempotencyTtlMs: number;
}

export const DEFAULT_LIMITS: Limits = {
  maxLiveExecutions: 20_000,
  maxQueuedExecutions: 15_000,
  maxQueuedOfFunction: 10_000,
  maxFunctions: 1_000,
  maxBlobBytes: 64 * 1024 * 1024 * 1024,
  idempotencyTtlMs: DEFAULT_IDEMPOTENCY_TTL_MS,
};

/** What the project would have if the request were granted. */
export interface Demand {
  readonly liveExecutions?: number;
  readonly queuedExecutions?: number;
  readonly queuedOfFunction?: number;
  readonly functions?: number;
  readonly blobBytes?: number;
}

/**
 * The one decision whether a project may have more.
 *
 * @throws CocoreError `quota_exceeded`, naming the cap
 */
export function admit(demand: Demand, limits: Limits): void {
  const check = (name: keyof Demand, cap: number, what: string, of = 'the project') => {
    const wanted = demand[name];
    if (wanted === undefined || wanted <= cap) return;
    throw new CocoreError('quota_exceeded', `${of} may have at most ${cap} ${what}`, { details: { name, cap, what } });
  };
  check('liveExecutions', limits.maxLiveExecutions, 'executions that have not ended');
  check('queuedExecutions', limits.maxQueuedExecutions, 'executions that wait for a worker');
  check('queuedOfFunction', limits.maxQueuedOfFunction, 'executions that wait for a worker', 'a function');
  check('functions', limits.maxFunctions, 'functions');
  check('blobBytes', limits.maxBlobBytes, 'bytes of code and blobs');
}

/** @throws CocoreError `shape_not_offered`, naming the next larger shape, or the largest */
export function checkShape(memoryMiB: number, cpus: number): void {
  const check = (wanted: number, offered: readonly number[], what: string) => {
    if (offered.includes(wanted)) return;
    const next = offered.find((shape) => shape > wanted);
    const advice = next === undefined ? `the largest is ${offered.at(-1)!}` : `the next is ${next}`;
    throw new CocoreError('shape_not_offered', `${what} ${wanted} is not offered; ${advice}`, {
      details: { field: what, offered, next: next ?? null },
    });
  };
  check(memoryMiB, MEMORY_SHAPES_MIB, 'memoryMiB');
  check(cpus, CPU_SHAPES, 'cpus');
}
