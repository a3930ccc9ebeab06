import type { ApiClient } from './api-client.ts';
import { JAIL_PATHS } from './jailer-command.ts';
import {
  BOOT_ARGS,
  type DeviceRate,
  drives,
  entropyRate,
  GUEST_CID,
  machineConfiguration,
  networkCard,
  serialDevice,
} from './machine.ts';
import { isAtLeast, type Version } from './tools.ts';

/** `PUT /serial` takes a rate from here on. */
const SERIAL_RATE_SINCE = [1, 16] as const;

export interface MachineConfig {
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly driveRate: DeviceRate;
  /** The machine has a network card, whose other end is the tap of its namespace. */
  readonly hasNetwork: boolean;
  /** Of Firecracker. */
  readonly version: Version;
}

/** Tells a new monitor what its machine is, and boots that. */
export async function boot(api: ApiClient, config: MachineConfig): Promise<void> {
  const { cpus, memoryMiB, driveRate, hasNetwork, version } = config;
  await api.putMachineConfig(machineConfiguration(cpus, memoryMiB));
  await api.putBootSource({
    kernel_image_path: JAIL_PATHS.kernel,
    initrd_path: JAIL_PATHS.initrd,
    boot_args: BOOT_ARGS,
  });
  for (const drive of drives(driveRate)) await api.putDrive(drive);
  await api.putEntropy({ rate_limiter: entropyRate });
  if (isAtLeast(version, SERIAL_RATE_SINCE)) await api.putSerial(serialDevice);
  if (hasNetwork) await api.putNetworkInterface(networkCard);
  await api.putVsock({ guest_cid: GUEST_CID, uds_path: JAIL_PATHS.vsock });
  await api.act('InstanceStart');
}

/**
 * Makes a new monitor continue the machine of a snapshot. Its drives are the files that have their names in this jail; rates and
 * devices are the snapshot's, but the console's rate, which Firecracker does not write down.
 */
export async function restore(api: ApiClient, { isPaused }: { readonly isPaused: boolean }): Promise<void> {
  await api.loadSnapshot({
    snapshot_path: JAIL_PATHS.state,
    mem_backend: { backend_type: 'File', backend_path: JAIL_PATHS.memory },
    resume_vm: !isPaused,
  });
}
