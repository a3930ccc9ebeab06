import { IsolationClass, orBetter, type Waiting } from '@cocore/protocol';
import type { FullCap } from './project-queue.ts';
import type { Room } from './rooms.ts';
import type { Need, SchedulerShape } from './types.ts';

/** Why nothing takes an attempt, in words: what is needed, and what is there. */
export type Why = Omit<Waiting, 'position'>;

export const noWorker = ({ isolation }: Need): Why => ({
  code: 'no_worker',
  message: `no worker is online; needed is one that gives isolation ${orBetter(isolation)}`,
});

/** @param workers all that are online; none is strong enough */
export function tooWeak({ isolation }: Need, workers: Iterable<Need>): Why {
  const counts = new Map<IsolationClass, number>();
  for (const worker of workers) counts.set(worker.isolation, (counts.get(worker.isolation) ?? 0) + 1);
  const there = IsolationClass.options.filter((one) => counts.has(one)).map((one) => `${one} (${counts.get(one)})`);
  return {
    code: 'isolation',
    message: `no worker that is online gives isolation ${orBetter(isolation)}; there is: ${there.join(', ')}`,
  };
}

/** @param strong how many workers that are online are strong enough; none of them gives a network */
export const noEgress = ({ isolation }: Need, strong: number): Why => ({
  code: 'network',
  message: `its function has a network, which no worker gives of the ${strong} that are online with isolation ${orBetter(isolation)}`,
});

/** @param workers those that are strong enough, at least one; none is large enough */
export function tooLarge(need: Need, workers: readonly (Need & { readonly sandboxOverheadMiB: number })[]): Why {
  const room = (worker: (typeof workers)[number]) => worker.memoryMiB - worker.sandboxOverheadMiB;
  const largest = workers.reduce((best, worker) => (room(worker) > room(best) ? worker : best));
  const there = size({ ...shapeOf(largest), memoryMiB: Math.max(0, room(largest)) });
  return {
    code: 'too_large',
    message: `no worker that is online and gives isolation ${orBetter(need.isolation)} is large enough for ${size(need)}; the largest has ${there}`,
  };
}

/** @param rooms those that could run it, were they empty */
export function busy(need: Need, rooms: readonly Room[]): Why {
  const count = (is: (room: Room) => boolean) => rooms.filter(is).length;
  const notes = [
    [count(({ isStopping, isDrained }) => isStopping || isDrained), 'given nothing more'],
    [count(({ notBeforeMs }) => notBeforeMs !== null), 'backed off after failures'],
    [count((room) => room.isAtAllowance), 'new or on trial, with as many as they may have'],
    [count(({ isBehind }) => isBehind), 'still being sent what they were given'],
    [count(({ reservedFor }) => reservedFor !== null), 'kept for a larger one that has waited long'],
  ] as const;
  const words = notes.filter(([many]) => many > 0).map(([many, what]) => `${many} ${what}`);
  const details = words.length === 0 ? '' : ` (${words.join(', ')})`;
  return {
    code: 'busy',
    message: `workers that could run it: ${rooms.length}${details}; none has room now for ${size(need)}`,
  };
}

export function capped(cap: FullCap): Why {
  const what = cap.kind === 'function' ? 'its function' : `the concurrency key ${JSON.stringify(cap.key)}`;
  const runs =
    cap.limit === 1
      ? 'one execution at a time, which has a worker'
      : `${cap.limit} executions at a time, and all have a worker`;
  return { code: 'cap', message: `${what} allows ${runs}` };
}

const shapeOf = ({ cpus, diskMiB }: Need) => ({ cpus, diskMiB });

const size = ({ memoryMiB, cpus, diskMiB }: SchedulerShape): string =>
  `${memoryMiB} MiB of memory, ${cpus} CPU and ${diskMiB} MiB of disk`;
