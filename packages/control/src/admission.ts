import { CocoreError, CPU_SHAPES, MEMORY_SHAPES_MIB } from '@cocore/protocol';

/** What one project may have. */
export interface Limits {
  /** Executions that are open or running. */
  readonly maxLiveExecutions: number;
  readonly maxFunctions: number;
  /** Uploaded and deployed bytes together. */
  readonly maxBlobBytes: number;
}

export const DEFAULT_LIMITS: Limits = {
  maxLiveExecutions: 10_000,
  maxFunctions: 1_000,
  maxBlobBytes: 64 * 1024 * 1024 * 1024,
};

/** What the project would have if the request were granted. */
export interface Demand {
  readonly liveExecutions?: number;
  readonly functions?: number;
  readonly blobBytes?: number;
}

/**
 * The one decision whether a project may have more.
 *
 * @throws CocoreError `quota_exceeded`, naming the cap
 */
export function admit(demand: Demand, limits: Limits): void {
  const check = (wanted: number | undefined, cap: number, what: string) => {
    if (wanted === undefined || wanted <= cap) return;
    throw new CocoreError('quota_exceeded', `the project may have at most ${cap} ${what}`, { details: { cap, what } });
  };
  check(demand.liveExecutions, limits.maxLiveExecutions, 'executions that have not ended');
  check(demand.functions, limits.maxFunctions, 'functions');
  check(demand.blobBytes, limits.maxBlobBytes, 'bytes of code and blobs');
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
