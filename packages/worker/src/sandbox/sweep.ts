import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CgroupHierarchy } from '../cgroup/cgroup.ts';
import type { SandboxHandle } from './driver.ts';
import { isSandboxName } from './outliving.ts';

/** Of sandboxes that are to be kept, those that can be of this driver. */
export const keptOf = (name: string, kept: readonly SandboxHandle[]): readonly SandboxHandle[] =>
  kept.filter((handle) => handle.driver === name && isSandboxName(handle.name));

/** Kills and removes what a dead life of this daemon left, whatever driver it had, but for the sandboxes that are kept. */
export async function sweepGroups(
  cgroups: CgroupHierarchy,
  daemonTag: string,
  kept: readonly SandboxHandle[] = [],
): Promise<void> {
  const spared = new Set(kept.map(({ name }) => `${daemonTag}.${name}`));
  const ours = (await cgroups.list()).filter((name) => name.startsWith(`${daemonTag}.`));
  for (const name of ours) if (!spared.has(name)) await cgroups.open(name).remove();
}

/** Removes a directory and what is in it, but for the named directories below it, and those on the way to them. */
export async function removeAllBut(directory: string, spared: readonly string[]): Promise<void> {
  if (spared.includes(directory)) return;
  if (!spared.some((path) => path.startsWith(`${directory}/`))) return rm(directory, { recursive: true, force: true });
  for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
    const path = join(directory, entry.name);
    // A link is never followed.
    if (entry.isDirectory()) await removeAllBut(path, spared);
    else await rm(path, { force: true });
  }
}
