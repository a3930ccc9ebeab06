import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { AgentPort } from './agent-port.ts';
import type { Settings } from './place.ts';
import { Qmp } from './qmp.ts';

export interface MachineDrive {
  readonly id: string;
  readonly path: string;
  readonly readOnly: boolean;
}

/** A network card, and the tap at its other end. */
export interface MachineCard {
  readonly id: string;
  readonly tap: string;
  /** Null: the machine's maker chooses. */
  readonly mac: string | null;
}

/** What was configured over the API, as far as the machine is made of it. */
export interface MachineConfig {
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly kernel: string;
  readonly initrd: string | null;
  readonly bootArgs: string;
  /** In the order of `/dev/vda`, `/dev/vdb` and so on. */
  readonly drives: readonly MachineDrive[];
  readonly cards: readonly MachineCard[];
  readonly entropy: boolean;
}

const QMP_FD = 3;
const SNAPSHOT_FD = 4;

/** What Firecracker's hardware is told, changed to what emulated hardware needs to be told. */
export function adaptedBootArgs(bootArgs: string, tscKhz: number | null): string {
  const words = bootArgs
    .split(' ')
    // There is no keyboard controller to reset by, and none to probe; the agent's port is not a vsock.
    .filter((word) => word !== '' && !word.startsWith('i8042.') && !word.startsWith('cocore.vsock='))
    .map((word) => (word === 'reboot=k' ? 'reboot=t' : word));
  return [...words, ...(tscKhz === null ? [] : ['tsc=reliable', `tsc_early_khz=${tscKhz}`])].join(' ');
}

/** What lies below a drive, and can be exchanged. */
export function fileNode({ path, readOnly }: MachineDrive, node: string): Record<string, unknown> {
  const cache = readOnly ? {} : { cache: { direct: false, 'no-flush': true } };
  return { driver: 'file', 'node-name': node, filename: path, locking: 'off', 'read-only': readOnly, ...cache };
}

/** The drive itself, over the file node. */
export function driveNode({ id, readOnly }: MachineDrive, file: string): Record<string, unknown> {
  return { driver: 'raw', 'node-name': id, file, 'read-only': readOnly };
}

/** @param agentName where QEMU listens for whoever would speak to the agent: of Linux's abstract names, so that no file is left */
export function qemuArguments(
  config: MachineConfig,
  { tscKhz }: Settings,
  agentName: string,
  incoming: boolean,
): string[] {
  // No drive has a serial number of ours: the guest has only their order to go by.
  const drives = config.drives.flatMap((drive) => [
    ...['-blockdev', JSON.stringify(fileNode(drive, `${drive.id}-file`))],
    ...['-blockdev', JSON.stringify(driveNode(drive, `${drive.id}-file`))],
    ...['-device', `virtio-blk-device,drive=${drive.id}`],
  ]);
  return [
    ['-M', 'microvm', '-accel', 'tcg,tb-size=64', '-cpu', 'max'],
    ['-m', String(config.memoryMiB), '-smp', String(config.cpus)],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    // A machine that is continued has its kernel in its memory.
    incoming ? [] : ['-kernel', config.kernel, ...(config.initrd === null ? [] : ['-initrd', config.initrd])],
    incoming ? [] : ['-append', adaptedBootArgs(config.bootArgs, tscKhz)],
    drives,
    config.entropy
      ? ['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-device,rng=rng']
      : [],
    ['-device', 'virtio-serial-device'],
    ['-chardev', `socket,id=agent,path=${agentName},abstract=on,server=on,wait=on`],
    ['-device', 'virtserialport,chardev=agent,name=cocore.agent,id=agent'],
    config.cards.flatMap(({ id, tap, mac }) => [
      ...['-netdev', `tap,id=${id},ifname=${tap},script=no,downscript=no,vhost=off`],
      ...['-device', `virtio-net-device,netdev=${id}${mac === null ? '' : `,mac=${mac}`}`],
    ]),
    ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'],
    incoming ? ['-incoming', `fd:${SNAPSHOT_FD}`] : [],
  ].flat();
}

/** The machine in QEMU. */
export class QemuMachine {
  readonly agent: AgentPort;
  readonly qmp: Qmp;
  readonly exited: Promise<number>;
  /** Whether somebody in the guest has the port open: whether "the port is listened on". */
  isListening = false;
  readonly #child: ChildProcess;
  #exchanged = 0;

  /** @param snapshotFd what to continue from; the machine is paused then */
  constructor(config: MachineConfig, settings: Settings, snapshotFd: number | null = null) {
    const agentName = `cocore-double-${randomBytes(8).toString('hex')}`;
    // Outside of a jail nothing else ends it with the monitor.
    const command = [settings.qemu, ...qemuArguments(config, settings, agentName, snapshotFd !== null)];
    this.#child = spawn('/usr/bin/setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      stdio: ['ignore', 'inherit', 'inherit', 'pipe', ...(snapshotFd === null ? [] : [snapshotFd])],
    });
    this.agent = new AgentPort(agentName);
    this.qmp = new Qmp(this.#child.stdio[QMP_FD] as Duplex, (event, data) => {
      if (event === 'VSERPORT_CHANGE' && data['id'] === 'agent') this.isListening = data['open'] === true;
    });
    this.exited = new Promise<number>((resolve) => {
      this.#child.once('error', () => resolve(1));
      this.#child.once('exit', (code) => resolve(code ?? 1));
    }).finally(() => this.agent[Symbol.dispose]());
  }

  /** Puts another file in the place of a drive's. */
  async exchange(drive: MachineDrive): Promise<void> {
    this.#exchanged += 1;
    const node = `${drive.id}-file-${this.#exchanged}`;
    await this.qmp.execute('blockdev-add', fileNode(drive, node));
    await this.qmp.execute('blockdev-reopen', { options: [driveNode(drive, node)] });
  }
}
