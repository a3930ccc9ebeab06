/** What each system is to the bench. An adapter's file has one `Peer` for each way of setting it up, and nothing else knows its packages. */

/** Where clients and workers of a system find it: whatever its adapter needs, as text. */
export type Place = Readonly<Record<string, string>>;

/** What was started for a system, and where it is. Its end is that of every process that it started. */
export interface Services extends AsyncDisposable {
  readonly place: Place;
}

export type Durability = 'each answer' | 'up to a second is lost';

export interface Peer {
  readonly name: string;
  /** What an answered submission survives. */
  readonly durability: Durability;
  /** What holds the records. */
  readonly store: 'Redis' | 'PostgreSQL' | 'SQLite' | 'its own';
  /** @param directory of its own, on the disk that is measured */
  start(directory: string): Promise<Services>;
  /** Nothing can be submitted before a worker has said what it runs. */
  readonly needsWorker?: boolean;
  /** Runs in a process of its own; what has work takes `CONCURRENCY` at once. Null where `start` or the client does it. */
  readonly work: ((place: Place) => Promise<AsyncDisposable>) | null;
  /** Where workers are processes of its own. */
  readonly startWorker?: (place: Place, directory: string) => Promise<AsyncDisposable>;
  /** Runs in a process of its own. */
  connect(place: Place): Promise<Client>;
}

export interface Client extends AsyncDisposable {
  /** One job that does nothing; resolves when it is accepted. Null where the system has no such thing. */
  readonly enqueue: (() => Promise<unknown>) | null;
  /** As many by the system's own way for many. */
  readonly enqueueMany: ((count: number) => Promise<unknown>) | null;
  /** Resolves when all that this client enqueued has ended, as the store says. */
  drained(): Promise<void>;
  /** One job; resolves when its result is here. */
  execute(): Promise<unknown>;
}

/** Jobs that a worker has at once, and those that the bench keeps in flight. */
export const CONCURRENCY = 50;
/** How many go in one request of the way for many. */
export const CHUNK = 500;

/** Asks again after the pause until the answer is true. */
export async function until(isSo: () => Promise<boolean>, pauseMs: number): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, pauseMs));
}
