import { IsolationClass, orBetter, type Waiting } from '@cocore/protocol';

/** Why nothing takes an attempt, in words: what is needed, and what is there. */

interface Need {
  readonly isolation: IsolationClass;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly diskMiB: number;
}

type Worker = Need & { readonly sandboxOverheadMiB: number };

export const noWorker = ({ isolation }: Need): Waiting => ({
  code: 'no_worker',
  message: `no worker is online; needed is one that gives isolation ${orBetter(isolation)}`,
});

/** @param workers all that are online; none is strong enough */
export function tooWeak({ isolation }: Need, workers: Iterable<Worker>): Waiting {
  const counts = new Map<IsolationClass, number>();
  for (const worker of workers) counts.set(worker.isolation, (counts.get(worker.isolation) ?? 0) + 1);
  const there = IsolationClass.options.filter((one) => counts.has(one)).map((one) => `${one} (${counts.get(one)})`);
  return {
    code: 'isolation',
    message: `no worker that is online gives isolation ${orBetter(isolation)}; there is: ${there.join(', ')}`,
  };
}

/** @param workers those that are strong enough, at least one; none is large enough */
export function tooLarge(need: Need, workers: readonly Worker[]): Waiting {
  const room = (worker: Worker) => worker.memoryMiB - worker.sandboxOverheadMiB;
  const largest = workers.reduce((best, worker) => (room(worker) > room(best) ? worker : best));
  const there = size({ ...largest, memoryMiB: Math.max(0, room(largest)) });
  return {
    code: 'too_large',
    message: `no worker that is online and gives isolation ${orBetter(need.isolation)} is large enough for ${size(need)}; the largest has ${there}`,
  };
}

/** @param count how many workers could run it, were they empty */
export const busy = (need: Need, count: number): Waiting => ({
  code: 'busy',
  message: `workers that could run it: ${count}; none has room now for ${size(need)}`,
});

const size = ({ memoryMiB, cpus, diskMiB }: Omit<Need, 'isolation'>): string =>
  `${memoryMiB} MiB of memory, ${cpus} CPU and ${diskMiB} MiB of disk`;
