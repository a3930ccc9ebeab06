import type { MeterReading } from '@cocore/protocol';
import type { ChildProcess } from 'node:child_process';
import type { Duplex, Writable } from 'node:stream';
import type { Cgroup } from '../cgroup/cgroup.ts';
import { hostClock } from '../host/clock.ts';
import { ConsoleRing, lastLine } from './console-ring.ts';
import type { Sandbox, SandboxExit, SandboxHandle } from './driver.ts';
import type { FoundSandbox, OutlivingState } from './outliving.ts';
import { childProcess, foundProcess, type SandboxProcess } from './sandbox-process.ts';

export interface ProcessSandboxParts {
  readonly handle: SandboxHandle;
  /** Whose end is the sandbox's: a child, whose prints go to the console, or what an earlier life of the daemon left. */
  readonly process: ChildProcess | FoundSandbox;
  readonly agent: Duplex;
  /** Every process of the sandbox is in it. */
  readonly cgroup: Cgroup;
  /** What to release when the processes are gone. */
  readonly owned: AsyncDisposableStack;
  /** With what it can be made to outlive the daemon. */
  readonly leash?: Leash;
}

/** What ties a sandbox to its daemon. */
export interface Leash {
  /** Its end without a word ends the sandbox. */
  readonly pipe: Writable;
  readonly uid: number;
}

/** A sandbox that is one process and whatever it started, all in one control group. */
export class ProcessSandbox implements Sandbox {
  readonly agent: Duplex;
  readonly exited: Promise<SandboxExit>;
  readonly #handle: SandboxHandle;
  readonly #process: SandboxProcess;
  readonly #cgroup: Cgroup;
  readonly #owned: AsyncDisposableStack;
  readonly #leash: Leash | null;
  readonly #ring = new ConsoleRing();
  #beganMs = hostClock();
  #cpuMsBefore = 0;
  #wallMs: number | null = null;
  #final: MeterReading | null = null;
  #destroyed: Promise<void> | null = null;

  constructor({ handle, process, agent, cgroup, owned, leash }: ProcessSandboxParts) {
    this.#handle = handle;
    this.#cgroup = cgroup;
    this.#owned = owned;
    this.#leash = leash ?? null;
    this.agent = agent;
    // A machine that dies while it is written to breaks the stream; its reader learns of that by the stream's end.
    this.agent.on('error', () => undefined);
    this.#leash?.pipe.on('error', () => undefined);
    if ('state' in process) {
      this.#process = foundProcess(process.state.process);
      this.#beganMs = process.state.beganMs;
      this.#cpuMsBefore = process.state.cpuMsBefore;
    } else this.#process = childProcess(process, (bytes) => this.#ring.push(bytes));
    this.exited = this.#process.exited.then((exit) => {
      this.#wallMs = hostClock() - this.#beganMs;
      return exit;
    });
  }

  get handle(): SandboxHandle {
    const { mark } = this.#process;
    if (this.#leash === null || mark === null) return this.#handle;
    const state: OutlivingState = {
      process: mark,
      uid: this.#leash.uid,
      beganMs: this.#beganMs,
      cpuMsBefore: this.#cpuMsBefore,
    };
    return { ...this.#handle, state };
  }

  outlive(): void {
    this.#leash?.pipe.write('keep\n');
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
      wallMs: this.#wallMs ?? hostClock() - this.#beganMs,
    };
  }

  /** What was used so far is nobody's: usage counts from now. */
  async beginMetering(): Promise<void> {
    this.#cpuMsBefore = (await this.#cgroup.usage()).cpuMs ?? 0;
    this.#beganMs = hostClock();
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
      this.#process.kill();
      await this.#cgroup.killAll();
      await this.exited;
      await this.#cgroup.killAll();
      this.#final = await this.usage();
    } finally {
      this.agent.destroy();
      this.#leash?.pipe.destroy();
      await this.#owned.disposeAsync();
    }
  }
}
