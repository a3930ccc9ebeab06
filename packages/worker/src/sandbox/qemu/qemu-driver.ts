import { CocoreError, SCRATCH_MIB } from '@cocore/protocol';
import { spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { openCgroups } from '../../cgroup/open.ts';
import type { HostCheck } from '../../host/check.ts';
import type { DriverCapabilities, Sandbox, SandboxDriver, SandboxHandle, SandboxSpec } from '../driver.ts';
import type { Artifacts } from '../microvm/artifacts.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import { GUEST_OVERHEAD_MIB, GUEST_OVERHEAD_RATIO, machineMemoryMiB } from '../microvm/shape.ts';
import { ProcessSandbox } from '../process-sandbox.ts';
import { UidPool } from '../uid-pool.ts';
import { AGENT_FD, JAIL_PATHS, qemuCommand, TRANSLATION_CACHE_MIB } from './command.ts';
import { probeQemuHost } from './probe.ts';
import { hostTscKhz } from './tsc.ts';

export interface QemuDriverOptions {
  readonly artifacts: Artifacts;
  /** For what belongs to live sandboxes; the driver has it to itself. */
  readonly runDir: string;
  /** Names this daemon on the host, the same in each of its lives. */
  readonly daemonTag: string;
  readonly uids?: UidPool;
  readonly bootDeadlineMs?: number;
}

/** QEMU itself, with its cache of translated code. */
export const VMM_OVERHEAD_MIB = 64 + TRANSLATION_CACHE_MIB;
/** QEMU's own threads, beside one for each CPU. */
const VMM_THREADS = 96;

const LAUNCHER = fileURLToPath(new URL('launch.sh', import.meta.url));

/**
 * Sandboxes that are QEMU machines of type `microvm` under software emulation: real microVMs, but emulation is no wall that its makers
 * answer for (isolation class `emulated`). Every QEMU has its own user id, namespaces, root, and control group (`launch.sh`).
 */
export class QemuDriver implements SandboxDriver {
  readonly capabilities: DriverCapabilities;
  readonly #options: QemuDriverOptions;
  readonly #uids: UidPool;
  readonly #scratch: ScratchTemplates;
  readonly #alive = new Set<ProcessSandbox>();
  #cgroups: CgroupHierarchy | null = null;
  #tscKhz: number | null = null;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#uids = options.uids ?? new UidPool();
    this.#scratch = new ScratchTemplates(options.runDir);
    this.capabilities = {
      name: 'qemu',
      isolation: 'emulated',
      snapshot: false,
      recover: false,
      network: false,
      runsCode: true,
      overheadMiB: GUEST_OVERHEAD_MIB + VMM_OVERHEAD_MIB,
      overheadRatio: GUEST_OVERHEAD_RATIO,
      bootDeadlineMs: options.bootDeadlineMs ?? 20_000,
    };
  }

  probe(): Promise<HostCheck[]> {
    return probeQemuHost(this.#options.artifacts.qemu);
  }

  async prepare(): Promise<void> {
    const missing = (await this.probe()).find((check) => !check.ok);
    if (missing !== undefined) {
      const { name, reason, remedy } = missing;
      throw new CocoreError('host_unfit', `${name}: ${reason}${remedy === null ? '' : ` (${remedy})`}`);
    }
    this.#cgroups = await openCgroups();
    await this.#reclaim(this.#cgroups);
    await mkdir(this.#options.runDir, { recursive: true, mode: 0o700 });
    await this.#scratch.prepare(SCRATCH_MIB);
    this.#tscKhz = await hostTscKhz();
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    if (!/^\w{1,64}$/.test(spec.name)) throw new RangeError(`${JSON.stringify(spec.name)} cannot name a sandbox`);
    const cgroups = this.#cgroups;
    if (cgroups === null) throw new Error('the driver is not prepared');
    signal.throwIfAborted();
    await using scope = new AsyncDisposableStack();
    const { uid } = scope.use(await this.#uids.take());
    const directory = join(this.#options.runDir, spec.name);
    const [root, scratch] = [join(directory, 'root'), join(directory, 'scratch')];
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    await mkdir(root, { recursive: true });
    await this.#scratch.write(scratch, spec.scratchMiB, uid);
    const cgroup = await cgroups.create(`${this.#options.daemonTag}.${spec.name}`);
    scope.defer(() => cgroup.remove());
    const memoryMiB = machineMemoryMiB(spec.memoryMiB);
    await cgroup.limit({
      memoryBytes: (memoryMiB + VMM_OVERHEAD_MIB) * 2 ** 20,
      pids: VMM_THREADS + spec.cpus,
      cpus: spec.cpus,
    });
    signal.throwIfAborted();
    const { kernel, initrd, qemu } = this.#options.artifacts;
    const binds: [string, string][] = [
      [kernel, JAIL_PATHS.kernel],
      [initrd, JAIL_PATHS.initrd],
      [spec.imagePath, JAIL_PATHS.rootfs],
      [spec.codePath, JAIL_PATHS.code],
    ];
    const command = qemuCommand({ qemu, memoryMiB, cpus: spec.cpus, tscKhz: this.#tscKhz });
    const child = spawn(LAUNCHER, ['join', ...command], {
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: {
        PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
        JAIL_DAEMON: String(process.pid),
        JAIL_ROOT: root,
        JAIL_UID: String(uid),
        JAIL_CGROUPS: cgroup.procsFiles.join('\n'),
        JAIL_BINDS: binds.map((pair) => pair.join(':')).join('\n'),
        JAIL_SCRATCH: `${scratch}:${JAIL_PATHS.scratch}`,
        JAIL_FSIZE: String(spec.scratchMiB * 2 ** 20),
      },
    });
    const handle: SandboxHandle = { version: 1, driver: 'qemu', name: spec.name };
    const agent = child.stdio[AGENT_FD] as Duplex;
    const sandbox = new ProcessSandbox({ handle, child, agent, cgroup, owned: scope.move() });
    this.#alive.add(sandbox);
    void sandbox.exited.then(() => this.#alive.delete(sandbox));
    return sandbox;
  }

  async recover(handle: SandboxHandle): Promise<Sandbox | null> {
    await this.#cgroups?.open(`${this.#options.daemonTag}.${handle.name}`).remove();
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#alive].map((sandbox) => sandbox.destroy()));
    await rm(this.#options.runDir, { recursive: true, force: true });
    await this.#cgroups?.tidy();
  }

  /** Kills and removes what a dead life of this daemon left: its machines die with it, but groups and files stay. */
  async #reclaim(cgroups: CgroupHierarchy): Promise<void> {
    const ours = (await cgroups.list()).filter((name) => name.startsWith(`${this.#options.daemonTag}.`));
    for (const name of ours) await cgroups.open(name).remove();
    await rm(this.#options.runDir, { recursive: true, force: true });
  }
}
