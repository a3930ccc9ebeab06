import type { IsolationClass } from '@cocore/protocol';

/** What the scheduler is told, and what it tells. */

export interface SchedulerShape {
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
}

/** What a worker must have. */
export interface Need extends SchedulerShape {
  /** The weakest class that it may run in. */
  readonly isolation: IsolationClass;
  /** It has a network; of a worker, that it gives one. */
  readonly egress: boolean;
}

/** What an attempt counts against while it has a worker, whether or not that is online. */
export interface CapFacts {
  readonly attemptId: string;
  readonly projectId: string;
  /** `limit`: how many of its attempts may have a worker at once, as its version of that number says; null for any number. */
  readonly function: { readonly id: string; readonly version: number; readonly limit: number | null };
  readonly concurrency: ConcurrencyKey | null;
}

/** Of one project, for all its functions. */
export interface ConcurrencyKey {
  readonly key: string;
  /** The attempt starts only while fewer than so many of its key have a worker. Others of the key may have another limit. */
  readonly limit: number;
}

export interface SchedulerItem extends Need, CapFacts {
  /** Within its project the higher goes first. */
  readonly priority: number;
  /** Digests of what its worker needs, the one that matters most first. */
  readonly blobs: readonly string[];
}

export type SchedulerEvent =
  | ({
      type: 'worker_online';
      workerId: string;
      /** What it gives in this session. */
      isolation: IsolationClass;
      /** Whether it gives functions a network. */
      egress: boolean;
      sandboxOverheadMiB: number;
      /** What it already has. */
      attempts: readonly (SchedulerShape & CapFacts)[];
    } & SchedulerShape)
  | { type: 'worker_offline'; workerId: string }
  /** Large blobs that it has from now on, or no more. It has none when it comes online. */
  | { type: 'worker_blobs'; workerId: string; added: readonly string[]; removed: readonly string[] }
  /** It refused: nothing is placed on it until it is opened, or gives room back. */
  | { type: 'worker_closed'; workerId: string }
  | { type: 'worker_opened'; workerId: string }
  /** What it was given has not reached it yet: nothing is placed on it while it is so. */
  | { type: 'worker_behind'; workerId: string; behind: boolean }
  /** Nothing more is placed on it until it has been offline. */
  | { type: 'worker_stopping'; workerId: string }
  /** Nothing more is placed on it until the opposite is said; one that comes online is not drained. */
  | { type: 'worker_drained'; workerId: string; drained: boolean }
  /** Of a worker that is online: how many attempts it may have at once, and until when it gets none. Both hold while it is. */
  | { type: 'worker_trust'; workerId: string; allowance: number; notBeforeMs: number | null }
  /** A newer version of a function has another limit. An older version's word does not count. */
  | { type: 'function_limit'; projectId: string; function: CapFacts['function'] }
  /** `order`: where it stood before, of one that was placed and could not be assigned. */
  | ({ type: 'queued'; order?: number } & SchedulerItem)
  /** It does not wait any more (cancelled, expired). */
  | { type: 'dequeued'; attemptId: string }
  /** A worker has it, which may be away. */
  | ({ type: 'held' } & CapFacts)
  /** No worker has it any more; its worker has its room back. */
  | { type: 'released'; attemptId: string }
  /** What time it is, by a clock that nobody sets. */
  | { type: 'time'; nowMs: number };

export interface Placement {
  readonly attemptId: string;
  readonly workerId: string;
  /** Where it stood in the queue. */
  readonly order: number;
}
