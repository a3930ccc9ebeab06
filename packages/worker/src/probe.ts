import { accessSync, constants } from 'node:fs';
import type { ProbeConfig } from './config.ts';
import { failed, type HostCheck, passed } from './host/check.ts';
import { readArtifacts } from './sandbox/microvm/artifacts.ts';
import { probeQemuHost } from './sandbox/qemu/probe.ts';

/** What this host can do, and for each thing that it cannot, why and what to do. */
export async function probeHost({ artifacts: path }: ProbeConfig): Promise<HostCheck[]> {
  let qemu = 'qemu-system-x86_64';
  let artifacts: HostCheck;
  try {
    ({ qemu } = readArtifacts(path));
    artifacts = passed('artifacts', path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    artifacts = failed('artifacts', reason, 'Run npm run setup in the checkout.');
  }
  return [...(await probeQemuHost(qemu)), artifacts, checkKvm()];
}

/** Not needed by anything yet: machines are emulated. */
function checkKvm(): HostCheck {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return passed('kvm', '/dev/kvm may be opened; whether it runs guests is not tried yet, and machines are emulated');
  } catch {
    return passed('kvm', '/dev/kvm may not be opened; machines are emulated');
  }
}
