import type { MeterReading } from '@cocore/protocol';
import type { ChildProcess } from 'node:child_process';
import type { Duplex } from 'node:stream';
import type { Cgroup } from '../cgroup/cgroup.ts';
import { awakeClock } from '../host/clock.ts';
import { ConsoleRing, lastLine } from './console-ring.ts';
import type { Sandbox, SandboxExit, SandboxHandle } from './driver.ts';

export interface ProcessSandboxParts {
  readonly handle: SandboxHandle;
  /** Whose end is the sandbox's; what it prints goes to the console. */
  readonly child: ChildProcess;
  readonly agent: Duplex;
  /** Every process of the sandbox is in it. */
  readonly cgroup: Cgroup;
  /** What to release when the processes are gone. */
  readonly owned: AsyncDisposableStack;
}

/** A sandbox that is a child process of the daemon and whatever it started, all in one control group. */
export class ProcessSandbox implements Sandbox {
  readonly handle: SandboxHandle;
  readonly agent: Duplex;
  readonly exited: Promise<SandboxExit>;
  readonly #child: ChildProcess;
  readonly #cgroup: Cgroup;
  readonly #owned: AsyncDisposableStack;
  readonly #ring = new ConsoleRing();
  #beganMs = awakeClock();
  #cpuMsBefore = 0;
  #wallMs: number | null = null;
  #final: MeterReading | null = null;
  #destroyed: Promise<void> | null = null;

  constructor({ handle, child, agent, cgroup, owned }: ProcessSandboxParts) {
    this.handle = handle;
    this.#child = child;
    this.#cgroup = cgroup;
    this.#owned = owned;
    this.agent = agent;
    // A machine that dies while it is written to breaks the stream; its reader learns of that by the stream's end.
    this.agent.on('error', () => undefined);
    for (const output of [child.stdout, child.stderr]) {
      output?.on('data', (bytes: Buffer) => this.#ring.push(bytes)).on('error', () => undefined);
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

  /** The last line of what it printed; empty when that is nothing. */
  lastWord(): string {
    return lastLine(this.#ring.text());
  }

  async usage(): Promise<MeterReading> {
    if (this.#final !== null) return this.#final;
    const { cpuMs, memoryPeakBytes } = await this.#cgroup.usage();
    return {
      cpuMs: cpuMs === null ? null : Math.max(0, cpuMs - this.#cpuMsBefore),
      memoryPeakBytes,
      wallMs: this.#wallMs ?? awakeClock() - this.#beganMs,
    };
  }

  /** What was used so far is nobody's: usage counts from now. */
  async beginMetering(): Promise<void> {
    this.#cpuMsBefore = (await this.#cgroup.usage()).cpuMs ?? 0;
    this.#beganMs = awakeClock();
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
      // It may not have joined the group yet; whatever it started then dies with it.
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
