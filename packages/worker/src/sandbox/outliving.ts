import { z } from 'zod';
import type { Cgroup } from '../cgroup/cgroup.ts';
import { isRunning, userIdsOf } from '../host/process.ts';
import type { SandboxHandle } from './driver.ts';
import type { UidPool } from './uid-pool.ts';

/** What a later life of the daemon needs to know of a sandbox of processes, beside its name. */
export const OutlivingState = z.object({
  /** Whose end is the sandbox's: root's, outside of all that the sandbox could reach. */
  process: z.object({ pid: z.int().min(2), startTicks: z.int().nonnegative() }),
  uid: z.int().positive(),
  /** When metering began, by the host's clock, and what was used before. */
  beganMs: z.number(),
  cpuMsBefore: z.number().nonnegative(),
});
export type OutlivingState = z.infer<typeof OutlivingState>;

/** A sandbox of an earlier life that still runs. */
export interface FoundSandbox {
  readonly state: OutlivingState;
}

/** Whether a handle's name can be one that a daemon gave: it becomes a part of paths. */
export const isSandboxName = (name: string): boolean => /^\w{1,64}$/.test(name);

/**
 * What the handle names, if it still runs and is what the handle says: the very process, in the group of that name, with nothing in the group that is
 * neither root's nor the sandbox's user's, and that user's id held by it. Null otherwise.
 */
export async function findOutliving(
  { state: written }: SandboxHandle,
  cgroup: Cgroup,
  uids: UidPool,
): Promise<FoundSandbox | null> {
  const parsed = OutlivingState.safeParse(written);
  if (!parsed.success) return null;
  const state = parsed.data;
  const pids = await cgroup.pids();
  if (!isRunning(state.process) || !pids.includes(state.process.pid)) return null;
  const users = userIdsOf(pids);
  if (!users.includes(state.uid) || users.some((uid) => uid !== 0 && uid !== state.uid)) return null;
  return (await uids.isTaken(state.uid)) ? { state } : null;
}
