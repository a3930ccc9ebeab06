import type { Duplex } from 'node:stream';
import type { IsolationClass, MeterReading } from '@cocore/protocol';
import type { HostCheck } from '../host/check.ts';

/**
 * How a daemon makes sandboxes. A sandbox runs one attempt: it is started, spoken to over one byte stream (the frames
 * of `protocol/guest.ts`), and destroyed. A driver knows nothing of attempts, blobs, or the control server; it is given
 * files that exist and stay for as long as the sandbox lives. `test/driver.conformance.ts` is the specification in tests.
 */
export interface SandboxDriver extends AsyncDisposable {
  readonly capabilities: DriverCapabilities;

  /** Whether this host can run the driver, and for each thing that is missing the reason and the remedy. */
  probe(): Promise<HostCheck[]>;

  /**
   * Makes what every start needs (the template) and removes what a dead life of this daemon left. Called once, before any
   * start.
   *
   * @throws CocoreError `host_unfit` or `artifact_missing`
   */
  prepare(): Promise<void>;

  /**
   * Starts a sandbox. Resolves when its agent may be spoken to; it may take the agent up to `capabilities.bootDeadlineMs`
   * to answer. When it rejects, or `signal` aborts, nothing is left.
   */
  start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox>;

  /**
   * Takes up a sandbox that an earlier life of the daemon started; null when it is gone. Only with `capabilities.recover`;
   * other drivers destroy what the handle names, and answer null.
   */
  recover(handle: SandboxHandle): Promise<Sandbox | null>;
}

/** Differences between drivers, as data. */
export interface DriverCapabilities {
  /** 1 to 32 characters. */
  readonly name: string;
  readonly isolation: IsolationClass;
  readonly snapshot: boolean;
  readonly recover: boolean;
  readonly network: boolean;
  /** Whether the function's code really runs (false: a script of the double does). */
  readonly runsCode: boolean;
  /** What one sandbox costs the host beyond the function's own memory. */
  readonly overheadMiB: number;
  /** What it costs beyond that for each MiB of the function's memory: page tables of the guest grow with it. */
  readonly overheadRatio: number;
  /** From `start` to the agent's HELLO. Later, the boot counts as failed. */
  readonly bootDeadlineMs: number;
}

/** What is known of a sandbox before it is known what runs in it. */
export interface SandboxShape {
  /** The function's own memory; the driver adds its overhead. */
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly scratchMiB: number;
}

export interface SandboxSpec extends SandboxShape {
  /** Names the sandbox on this host: letters, digits and `_`; unique among those alive. */
  readonly name: string;
  /** Root file system, an erofs file. */
  readonly imagePath: string;
  /** The function's code, an erofs file. */
  readonly codePath: string;
}

/**
 * A further power of some drivers: sandboxes that are started before it is known what runs in them, and wait with nothing of any
 * function inside.
 */
export interface BlankSandboxes {
  /** Resolves when the sandbox waits. When it rejects, or `signal` aborts, nothing is left. */
  startBlank(name: string, shape: SandboxShape, signal: AbortSignal): Promise<BlankSandbox>;
}

/** Disposing it destroys the sandbox, unless it was filled: then it is the sandbox's own business. */
export interface BlankSandbox extends AsyncDisposable {
  /** As `Sandbox.exited`. */
  readonly exited: Promise<SandboxExit>;
  /**
   * Makes it the sandbox of `spec`, which has its shape; once. Metering begins here. When it rejects, nothing is left.
   */
  fill(spec: SandboxSpec): Promise<Sandbox>;
}

/** Names a sandbox across the daemon's lives: plain JSON. */
export interface SandboxHandle {
  readonly version: 1;
  readonly driver: string;
  readonly name: string;
}

/** How a sandbox stopped, seen from the host. It says nothing about the function. */
export interface SandboxExit {
  readonly code: number | null;
  readonly signal: string | null;
}

export interface Sandbox extends AsyncDisposable {
  readonly handle: SandboxHandle;
  /** To the agent. Every byte read from it is the guest's: hostile. It ends when the sandbox does. */
  readonly agent: Duplex;
  /** Resolves when the sandbox no longer runs, whatever ended it; it never rejects. */
  readonly exited: Promise<SandboxExit>;

  /** The last bytes of the console as printable text, at most 64 KiB. For diagnosis only. */
  console(): string;

  /** What the host's control group measured; after `destroy`, the final reading. */
  usage(): Promise<MeterReading>;

  /**
   * Kills the sandbox and removes all it had: processes, sockets, mounts, control groups, files. Safe to call at any
   * time and again; resolves when everything is gone.
   */
  destroy(): Promise<void>;
}
