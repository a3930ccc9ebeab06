import { GUEST_MAC, TAP_INTERFACE } from '../driver.ts';
import type {
  Drive,
  MachineConfiguration,
  NetworkInterface,
  RateLimiter,
  SerialDevice,
  TokenBucket,
} from './api-types.ts';
import { JAIL_PATHS } from './jailer-command.ts';

/** How fast a sandbox may use a device of the host. */
export interface DeviceRate {
  readonly bytesPerSecond: number;
  readonly operationsPerSecond: number;
}

/** For each drive. Far above what a function needs, far below what keeps a host's disk from its owner. */
export const DRIVE_RATE: DeviceRate = { bytesPerSecond: 256 * 2 ** 20, operationsPerSecond: 20_000 };
/** What a guest prints beyond this is dropped, not queued. */
export const CONSOLE_BYTES_PER_SECOND = 256 * 1024;
/** Entropy that the guest's generator may draw; it is seeded by the agent besides. */
export const ENTROPY_BYTES_PER_SECOND = 64 * 1024;

/** Where the agent listens; only the host, CID 2, may connect. */
export const AGENT_PORT = 1024;
export const GUEST_CID = 3;

/**
 * Drives in the order in which they are configured, which is that of `/dev/vda`, `/dev/vdb` and so on: Firecracker gives drives no serial
 * number of ours, so the agent is told the order.
 */
export const DRIVE_ORDER = ['rootfs', 'code', 'scratch'] as const;

const perSecond = (size: number): TokenBucket => ({ size, refill_time: 1_000 });

export function rateLimiter({ bytesPerSecond, operationsPerSecond }: DeviceRate): RateLimiter {
  return { bandwidth: perSecond(bytesPerSecond), ops: perSecond(operationsPerSecond) };
}

/** None is the root device: that would add `root=` to the kernel's arguments, and the root is the initial file system. */
export function drives(rate: DeviceRate): Drive[] {
  return DRIVE_ORDER.map((name) => ({
    drive_id: name,
    is_root_device: false,
    is_read_only: name !== 'scratch',
    path_on_host: JAIL_PATHS[name],
    // Scratch is thrown away with the machine: its flushes need not reach the disk.
    cache_type: 'Unsafe',
    io_engine: 'Sync',
    rate_limiter: rateLimiter(rate),
  }));
}

/**
 * The network card of a machine that has one. It has no rate: a drive's is there because the host's disk is at its other end, and at this one's is a gate, in the
 * sandbox's own control group. What leaves the host is the gate's to bound, for every driver alike.
 */
export const networkCard: NetworkInterface = {
  iface_id: 'network',
  host_dev_name: TAP_INTERFACE,
  guest_mac: GUEST_MAC,
};

export function machineConfiguration(cpus: number, memoryMiB: number): MachineConfiguration {
  return { vcpu_count: cpus, mem_size_mib: memoryMiB, smt: false, track_dirty_pages: false };
}

export const serialDevice: SerialDevice = { rate_limiter: perSecond(CONSOLE_BYTES_PER_SECOND) };

export const entropyRate: RateLimiter = { bandwidth: perSecond(ENTROPY_BYTES_PER_SECOND) };

/** What Firecracker advises (a reset ends the machine; no PCI, no probing for a keyboard), and what the agent is told. */
export const BOOT_ARGS = [
  'console=ttyS0',
  'quiet',
  'loglevel=1',
  'reboot=k',
  'panic=-1',
  'pci=off',
  'i8042.noaux',
  'i8042.nomux',
  'i8042.dumbkbd',
  `cocore.vsock=${AGENT_PORT}`,
  `cocore.drives=${DRIVE_ORDER.join(',')}`,
].join(' ');
