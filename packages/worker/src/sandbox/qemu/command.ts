/** Where things are inside the jail. */
export const JAIL_PATHS = {
  kernel: '/vm/kernel',
  initrd: '/vm/initrd',
  rootfs: '/vm/rootfs',
  code: '/vm/code',
  scratch: '/vm/scratch',
} as const;

/** The inherited end of the socket pair to the agent. */
export const AGENT_FD = 3;

export interface QemuCommand {
  readonly qemu: string;
  /** Of the whole machine. */
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly tscKhz: number | null;
}

/** Translated code that QEMU keeps; its default is a large part of the guest's memory. */
export const TRANSLATION_CACHE_MIB = 64;

/** QEMU's command line: a `microvm` machine under software emulation, with three drives and one port to the agent. */
export function qemuCommand({ qemu, memoryMiB, cpus, tscKhz }: QemuCommand): string[] {
  // Without the rate, the calibration of the emulated counter hangs many boots of Debian's kernel.
  const tsc = tscKhz === null ? [] : ['tsc=reliable', `tsc_early_khz=${tscKhz}`];
  const drive = (name: 'rootfs' | 'code' | 'scratch', options: string) => [
    '-drive',
    `if=none,id=${name},file=${JAIL_PATHS[name]},format=raw,${options}`,
    '-device',
    `virtio-blk-device,drive=${name},serial=${name}`,
  ];
  return [
    qemu,
    ['-M', 'microvm', '-accel', `tcg,tb-size=${TRANSLATION_CACHE_MIB}`, '-cpu', 'max'],
    ['-m', String(memoryMiB), '-smp', String(cpus)],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-name', 'cocore'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ['-kernel', JAIL_PATHS.kernel, '-initrd', JAIL_PATHS.initrd],
    ['-append', ['console=ttyS0', 'quiet', 'reboot=t', 'panic=-1', ...tsc].join(' ')],
    drive('rootfs', 'readonly=on,file.locking=off'),
    drive('code', 'readonly=on,file.locking=off'),
    // What it holds is thrown away with the machine: nothing is ever flushed to the disk for its sake.
    drive('scratch', 'cache=unsafe,file.locking=off'),
    ['-device', 'virtio-serial-device'],
    ['-chardev', `socket,id=agent,fd=${AGENT_FD}`],
    ['-device', 'virtserialport,chardev=agent,name=cocore.agent'],
  ].flat();
}
