import type { IsolationClass } from '@cocore/protocol';
import type { ProbeConfig } from './config.ts';
import { kvmVerdictPath } from './drivers.ts';
import { failed, type HostCheck, passed } from './host/check.ts';
import { probeNetwork } from './network/probe.ts';
import { adviseFirecrackerHost } from './sandbox/firecracker/host-checks.ts';
import { probeFirecrackerHost } from './sandbox/firecracker/probe.ts';
import { findTools } from './sandbox/firecracker/tools.ts';
import { type Artifacts, readArtifacts } from './sandbox/microvm/artifacts.ts';
import { probeOciHost } from './sandbox/oci/probe.ts';
import { CRUN, GVISOR, type OciRuntime } from './sandbox/oci/runtimes.ts';
import { knownKvmVerdict } from './sandbox/qemu/kvm.ts';
import { probeQemuHost } from './sandbox/qemu/probe.ts';

/** What one driver would need of this host. */
export interface DriverReport {
  readonly driver: string;
  /** The class that it would give here. */
  readonly isolation: IsolationClass;
  readonly checks: readonly HostCheck[];
}

/** What this host can do, and for each thing that it cannot, why and what to do. */
export interface HostReport {
  readonly host: readonly HostCheck[];
  /** From the strongest class to the weakest. */
  readonly drivers: readonly DriverReport[];
  /** What giving functions a network needs. */
  readonly network: readonly HostCheck[];
  /** What a host that runs strangers' code should have beside: nothing refuses to start for its lack. */
  readonly advice: readonly HostCheck[];
}

export async function probeHost({ artifacts: path }: ProbeConfig): Promise<HostReport> {
  const { artifacts, check } = builtArtifacts(path);
  const kvm = await checkKvm(artifacts, path);
  const tools = await findTools(process.env);
  const programs = [tools.firecracker, tools.jailer].filter((program) => program !== null);
  const [firecracker, qemu, gvisor, crun, network] = await Promise.all([
    probeFirecrackerHost(tools),
    probeQemuHost(artifacts?.qemu ?? 'qemu-system-x86_64'),
    ociChecks(GVISOR),
    ociChecks(CRUN),
    probeNetwork(),
  ]);
  return {
    host: [check, kvm],
    drivers: [
      { driver: 'firecracker', isolation: 'microvm', checks: firecracker },
      { driver: 'qemu', isolation: kvm.ok ? 'microvm' : 'emulated', checks: qemu },
      { driver: 'gvisor', isolation: 'gvisor', checks: gvisor },
      { driver: 'crun', isolation: 'container', checks: crun },
    ],
    network,
    advice: adviseFirecrackerHost(programs),
  };
}

const ociChecks = async (runtime: OciRuntime): Promise<readonly HostCheck[]> => (await probeOciHost(runtime)).checks;

function builtArtifacts(path: string): { artifacts: Artifacts | null; check: HostCheck } {
  try {
    return { artifacts: readArtifacts(path), check: passed('artifacts', path) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { artifacts: null, check: failed('artifacts', reason, 'Run npm run setup in the checkout.') };
  }
}

/** Boots nothing: a worker does that at its first start, and its verdict is kept. */
async function checkKvm(artifacts: Artifacts | null, path: string): Promise<HostCheck> {
  const remedy = 'Use a host whose processor virtualizes; until then its machines are emulated, or gvisor runs.';
  const verdict = artifacts === null ? null : await knownKvmVerdict(artifacts, kvmVerdictPath(path)).catch(() => null);
  if (verdict === null) {
    return failed('kvm', 'whether guests boot under KVM here is not tried yet', 'Start a worker once, as root.');
  }
  return verdict.works ? passed('kvm', verdict.reason) : failed('kvm', verdict.reason, remedy);
}
