import { CocoreError, SCRATCH_MIB } from '@cocore/protocol';
import { mkdir, rm } from 'node:fs/promises';
import type { CgroupHierarchy } from '../../cgroup/cgroup.ts';
import { openCgroups } from '../../cgroup/open.ts';
import type { HostCheck } from '../../host/check.ts';
import type { DriverCapabilities, Sandbox, SandboxDriver, SandboxHandle, SandboxSpec } from '../driver.ts';
import { ScratchTemplates } from '../microvm/scratch.ts';
import type { ProcessSandbox } from '../process-sandbox.ts';
import { IdRanges } from './id-range.ts';
import { startOciSandbox } from './oci-sandbox.ts';
import { probeOciHost } from './probe.ts';
import type { OciRuntime } from './runtimes.ts';

export interface OciDriverOptions {
  /** `GVISOR` or `CRUN`. */
  readonly runtime: OciRuntime;
  /** For what belongs to live sandboxes; the driver has it to itself. */
  readonly runDir: string;
  /** Names this daemon on the host, the same in each of its lives. */
  readonly daemonTag: string;
  readonly bootDeadlineMs?: number;
}

/**
 * Sandboxes that are containers of an OCI runtime on the host's kernel, with ids, namespaces, root and control group of their own
 * (`launcher/main.c`). There is no guest: what stands in the agent's place is in this process (`OciGuest`).
 */
export class OciDriver implements SandboxDriver {
  readonly capabilities: DriverCapabilities;
  readonly #options: OciDriverOptions;
  readonly #ids = new IdRanges();
  readonly #scratch: ScratchTemplates;
  readonly #alive = new Set<ProcessSandbox>();
  #cgroups: CgroupHierarchy | null = null;
  #platform: string | null = null;

  constructor(options: OciDriverOptions) {
    this.#options = options;
    this.#scratch = new ScratchTemplates(options.runDir);
    const { name, isolation, overheadMiB } = options.runtime;
    this.capabilities = {
      name,
      isolation,
      snapshot: false,
      recover: false,
      network: true,
      runsCode: true,
      overheadMiB,
      overheadRatio: 0,
      bootDeadlineMs: options.bootDeadlineMs ?? 5_000,
    };
  }

  async probe(): Promise<HostCheck[]> {
    const { runtime, runDir, daemonTag } = this.#options;
    const { checks, platform } = await probeOciHost(runtime, { directory: runDir, tag: daemonTag });
    this.#platform = platform ?? this.#platform;
    return [...checks];
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
  }

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    if (!/^\w{1,64}$/.test(spec.name)) throw new RangeError(`${JSON.stringify(spec.name)} cannot name a sandbox`);
    const [cgroups, platform] = [this.#cgroups, this.#platform];
    if (cgroups === null || platform === null) throw new Error('the driver is not prepared');
    const sandbox = await startOciSandbox(spec, signal, {
      ...this.#options,
      platform,
      cgroups,
      ids: this.#ids,
      scratch: this.#scratch,
    });
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

  /** Kills and removes what a dead life of this daemon left: its containers die with it, but groups and files stay. */
  async #reclaim(cgroups: CgroupHierarchy): Promise<void> {
    const ours = (await cgroups.list()).filter((name) => name.startsWith(`${this.#options.daemonTag}.`));
    for (const name of ours) await cgroups.open(name).remove();
    await rm(this.#options.runDir, { recursive: true, force: true });
  }
}
