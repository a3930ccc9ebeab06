import { CocoreError } from '@cocore/protocol';
import { join } from 'node:path';
import { codeOf, exists } from './base.ts';
import type { CgroupHierarchy } from './cgroup.ts';
import { CgroupHierarchyV1 } from './v1.ts';
import { CgroupHierarchyV2, missingControllers, offeredControllers } from './v2.ts';

/** A process that is already gone has been killed. */
function sigkill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (codeOf(error) !== 'ESRCH') throw error;
  }
}

/**
 * The hierarchy mounted at `root`: version 2 when the controllers are there, else version 1 (also on hosts that mount both).
 *
 * @throws CocoreError `host_unfit`
 */
export async function openCgroups(root = '/sys/fs/cgroup', kill = sigkill): Promise<CgroupHierarchy> {
  if (await exists(join(root, 'cgroup.controllers'))) {
    const missing = missingControllers(await offeredControllers(root));
    if (missing.length > 0) {
      throw new CocoreError(
        'host_unfit',
        `the control group controllers ${missing.join(', ')} are not offered at ${root}`,
      );
    }
    return new CgroupHierarchyV2(root, kill);
  }
  const hierarchy = await CgroupHierarchyV1.open(root, kill);
  if (hierarchy.missing.length > 0) {
    throw new CocoreError(
      'host_unfit',
      `the control group controllers ${hierarchy.missing.join(', ')} are not mounted`,
    );
  }
  return hierarchy;
}
