import type { MeterReading } from '@cocore/protocol';
import type { ChildProcess } from 'node:child_process';
import type { Duplex, Readable } from 'node:stream';
import type { Cgroup } from '../../cgroup/cgroup.ts';
import { awakeClock } from '../../host/clock.ts';
import { ConsoleRing } from '../console-ring.ts';
import type { Sandbox, SandboxExit, SandboxHandle } from '../driver.ts';
import { AGENT_FD } from './command.ts';

/** One running QEMU with everything that is its own, which `owned` releases. */
export class QemuSandbox implements Sandbox {
  readonly handle: SandboxHandle;
  readonly agent: Duplex;
  readonly exited: Promise<SandboxExit>;
  readonly #child: ChildProcess;
  readonly #cgroup: Cgroup;
  readonly #owned: AsyncDisposableStack;
  readonly #ring = new ConsoleRing();
  readonly #beganMs = awakeClock();
  #wallMs: number | null = null;
  #final: MeterReading | null = null;
  #destroyed: Promise<void> | null = null;

  /**
   * @param owned what to release when the processes are gone
   */
  constructor(name: string, child: ChildProcess, cgroup: Cgroup, owned: AsyncDisposableStack) {
    this.handle = { version: 1, driver: 'qemu', name };
    this.#child = child;
    this.#cgroup = cgroup;
    this.#owned = owned;
    this.agent = child.stdio[AGENT_FD] as Duplex;
    // A machine that dies while it is written to breaks the stream; its reader learns of that by the stream's end.
    this.agent.on('error', () => undefined);
    for (const output of [child.stdout, child.stderr] as Readable[]) {
      output.on('data', (bytes: Buffer) => this.#ring.push(bytes)).on('error', () => undefined);
    }
    this.exited = new Promise((resolve) => {
      child.once('error', (error) => {
        this.#ring.push(Buffer.from(`cannot be started: ${error.message}\n`));
        resolve({ code: null, signal: null });
      });
      child.once('exit', (code, signal) => {
        this.#wallMs = awakeClock() - this.#beganMs;
        resolve({ code, signal });
      });
    });
  }

  console(): string {
    return this.#ring.text();
  }

  async usage(): Promise<MeterReading> {
    if (this.#final !== null) return this.#final;
    const usage = await this.#cgroup.usage();
    return { ...usage, wallMs: this.#wallMs ?? awakeClock() - this.#beganMs };
  }

  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroy();
    return this.#destroyed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  async #destroy(): Promise<void> {
    try {
      // The launcher may not have joined the group yet; whatever it started dies with it.
      this.#child.kill('SIGKILL');
      await this.exited;
      await this.#cgroup.killAll();
      this.#final = await this.usage();
    } finally {
      this.agent.destroy();
      await this.#owned.disposeAsync();
    }
  }
}
