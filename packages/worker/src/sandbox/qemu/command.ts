import { GUEST_MAC, TAP_INTERFACE } from '../driver.ts';

/** Where things are inside the jail. */
export const JAIL_PATHS = {
  kernel: '/vm/kernel',
  initrd: '/vm/initrd',
  drives: '/vm/drives',
  /** QEMU writes a snapshot to this socket. */
  snapshot: '/vm/snapshot',
  /** QEMU's own directory, in memory. */
  own: '/vm/own',
  /** Where QEMU listens for who would speak to the agent. */
  agent: '/vm/own/agent',
} as const;

export const DRIVES = ['rootfs', 'code', 'scratch'] as const;
export type DriveName = (typeof DRIVES)[number];

export const drivePath = (name: DriveName): string => `${JAIL_PATHS.drives}/${name}`;

/** The inherited end of the socket pair for QEMU's machine protocol; those before it are the launcher's. */
export const QMP_FD = 5;
/** The snapshot, where there is one. */
export const SNAPSHOT_FD = 6;
/** QEMU's name of the agent's port: the protocol says when the guest opens it. */
export const AGENT_PORT_ID = 'agent-port';

export interface QemuCommand {
  readonly qemu: string;
  readonly accelerator: Accelerator;
  /** Of the whole machine. */
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly tscKhz: number | null;
  /** `placeholders`: drives of zeros, to be exchanged before anything reads them. */
  readonly drives: 'files' | 'placeholders';
  /** The machine has a network card, whose other end is the tap of its namespace. */
  readonly hasNetwork: boolean;
  /** Starts from the snapshot at descriptor `SNAPSHOT_FD`, made by a machine of the same command line. */
  readonly restore: boolean;
}

export type Accelerator = 'kvm' | 'tcg';

/** Translated code that QEMU keeps; its default is a large part of the guest's memory. */
export const TRANSLATION_CACHE_MIB = 64;

/** What stands for a drive that nobody has given yet: larger than any that will, so that the guest's kernel refuses no offset. */
const PLACEHOLDER_BYTES = 2 ** 40;

/** How a drive's file is opened. What scratch holds is thrown away with the machine: nothing is ever flushed for its sake. */
export const driveOptions = (name: DriveName) => ({
  'read-only': name !== 'scratch',
  cache: { 'no-flush': name === 'scratch' },
});

/**
 * QEMU's command line: a `microvm` machine with three drives and one port to the agent. Each drive is two nodes, a raw format named as the drive
 * over a file, so that the file can be exchanged below the device.
 */
export function qemuCommand(command: QemuCommand): string[] {
  const { qemu, accelerator, memoryMiB, cpus, tscKhz, hasNetwork, restore } = command;
  // Without the rate, the calibration of the emulated counter hangs many boots of Debian's kernel.
  const tsc = tscKhz === null || accelerator === 'kvm' ? [] : ['tsc=reliable', `tsc_early_khz=${tscKhz}`];
  const machine = {
    kvm: ['-M', 'microvm', '-accel', 'kvm', '-cpu', 'host'],
    tcg: ['-M', 'microvm', '-accel', `tcg,tb-size=${TRANSLATION_CACHE_MIB}`, '-cpu', 'max'],
  }[accelerator];
  const drive = (name: DriveName) => {
    const file =
      command.drives === 'placeholders'
        ? { driver: 'null-co', size: PLACEHOLDER_BYTES, 'read-zeroes': true }
        : { driver: 'file', filename: drivePath(name), locking: 'off' };
    const nodes = [
      { ...file, 'node-name': `${name}-file`, ...driveOptions(name) },
      { driver: 'raw', 'node-name': name, file: `${name}-file`, ...driveOptions(name) },
    ];
    return [
      ...nodes.flatMap((node) => ['-blockdev', JSON.stringify(node)]),
      ...['-device', `virtio-blk-device,drive=${name},serial=${name}`],
    ];
  };
  return [
    [qemu, ...machine, '-m', String(memoryMiB), '-smp', String(cpus)],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-name', 'cocore'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ['-kernel', JAIL_PATHS.kernel, '-initrd', JAIL_PATHS.initrd],
    ['-append', ['console=ttyS0', 'quiet', 'reboot=t', 'panic=-1', ...tsc].join(' ')],
    ...DRIVES.map(drive),
    ['-device', 'virtio-serial-device'],
    // One connection after the other, the first before there is a machine: the guest sees where one ends.
    ['-chardev', `socket,id=agent,path=${JAIL_PATHS.agent},server=on,wait=on`],
    ['-device', `virtserialport,id=${AGENT_PORT_ID},chardev=agent,name=cocore.agent`],
    ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'],
    hasNetwork
      ? [
          ...['-netdev', `tap,id=net,ifname=${TAP_INTERFACE},script=no,downscript=no,vhost=off`],
          ...['-device', `virtio-net-device,netdev=net,mac=${GUEST_MAC}`],
        ]
      : [],
    restore ? ['-incoming', `fd:${SNAPSHOT_FD}`] : [],
  ].flat();
}
