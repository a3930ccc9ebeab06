import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { promisify } from 'node:util';
import { openCgroups } from '../../cgroup/open.ts';
import { failed, type HostCheck, passed } from '../../host/check.ts';
import { checkCgroups, checkProgram, checkRoot, firstLine } from '../../host/probes.ts';
import { LAUNCHER } from './oci-sandbox.ts';
import type { OciRuntime } from './runtimes.ts';
import { trialPlace, tryRuntime } from './trial.ts';

export interface OciProbe {
  readonly checks: readonly HostCheck[];
  /** The platform that a trial has found to work, unless a check failed. */
  readonly platform: string | null;
}

/** Whether this host can run sandboxes of a runtime. Where nothing is missing, one is run. */
export async function probeOciHost(runtime: OciRuntime, place = trialPlace()): Promise<OciProbe> {
  const checks = await Promise.all([
    checkRoot('sandboxes are made by root, and each then runs with ids of its own'),
    checkFile(runtime.name, runtime.program, `Install the package ${runtime.from}.`),
    checkFile('launcher', LAUNCHER, 'Run npm run setup in the checkout.'),
    checkProgram('mkfs.erofs', 'erofs-utils'),
    checkProgram('mkfs.ext4', 'e2fsprogs'),
    checkFile('loop devices', '/dev/loop-control', 'Load the kernel module loop.'),
    checkUserNamespaces(),
    checkCgroups(),
  ]);
  if (checks.some((check) => !check.ok)) return { checks, platform: null };
  const name = `${runtime.name} trial`;
  try {
    const verdict = await tryRuntime(runtime, await openCgroups(), place);
    if (verdict.platform !== null) {
      return { checks: [...checks, passed(name, `a container ran (${verdict.platform})`)], ...verdict };
    }
    return { checks: [...checks, failed(name, verdict.reason, TRIAL_REMEDY)], platform: null };
  } catch (error) {
    return { checks: [...checks, failed(name, firstLine(error), TRIAL_REMEDY)], platform: null };
  }
}

const TRIAL_REMEDY =
  'A host needs Linux 5.19 or later with erofs, overlay, user namespaces and loop devices; a daemon in a container needs them allowed.';

async function checkFile(name: string, path: string, remedy: string): Promise<HostCheck> {
  try {
    await access(path, constants.R_OK);
    return passed(name, path);
  } catch {
    return failed(name, `${path} is not there`, remedy);
  }
}

async function checkUserNamespaces(): Promise<HostCheck> {
  try {
    await promisify(execFile)('unshare', ['--user', 'true']);
    return passed('user namespaces', 'can be made');
  } catch (error) {
    return failed('user namespaces', firstLine(error), 'Set the sysctl user.max_user_namespaces above 0.');
  }
}
