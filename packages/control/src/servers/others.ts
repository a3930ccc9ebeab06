import type { SandboxKind } from '@cocore/protocol';
import type { Need } from '../scheduler/types.ts';
import type { StoredWorker } from '../store/store.ts';
import type { NewsItem } from './news.ts';

/** What the rest of a server knows of the others. */
export interface Others {
  /** Whether there are any. */
  readonly areThere: boolean;
  tell(item: NewsItem): void;
  /** Something that this server holds of workers is not so any more. */
  lookAtWorkers(): Promise<void>;
  /** Whether one that is online at another server could run it, were it empty. */
  couldRun(need: Need): boolean;
  isGiven(required: SandboxKind): boolean;
  /** How many workers are online at other servers. */
  readonly onlineCount: number;
  /** Whether the worker is online at another server. */
  has(worker: StoredWorker): boolean;
}
