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
   * Makes what every start needs (the template) and removes what a dead life of this daemon left, but for the sandboxes that are `kept`: each of
   * those is given to `recover` next. Called once, before any start.
   *
   * @throws CocoreError `host_unfit` or `artifact_missing`
   */
  prepare(kept?: readonly SandboxHandle[]): Promise<void>;

  /**
   * Starts a sandbox. Resolves when its agent may be spoken to; it may take the agent up to `capabilities.bootDeadlineMs`
   * to answer. When it rejects, or `signal` aborts, nothing is left.
   */
  start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox>;

  /**
   * Takes up a sandbox that an earlier life of the daemon started and `prepare` has kept, once; null when there is none, when it is gone, or is not
   * what the handle says: nothing of it is left then. Only with `capabilities.recover`; other drivers destroy what the handle names, and
   * answer null.
   */
  recover(handle: SandboxHandle): Promise<Sandbox | null>;
}

/** Differences between drivers, as data. */
export interface DriverCapabilities {
  /** 1 to 32 characters. */
  readonly name: string;
  readonly isolation: IsolationClass;
  readonly snapshot: boolean;
  /** Whether a sandbox can be made to outlive the daemon, and a later life can take it up. */
  readonly recover: boolean;
  /** Whether its sandboxes can be given a network, where the host has what that takes. */
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
  /** What the sandbox is attached to; without it, it has no network. Only with `capabilities.network`. */
  readonly network?: SandboxNetwork;
}

/** A network that a sandbox can be attached to. What may pass is its maker's business, and none of the driver's. */
export interface SandboxNetwork {
  /**
   * Makes the wire between the sandbox and its network; one sandbox at a time. Disposing of it takes the network away.
   *
   * @throws CocoreError `host_unfit`. Nothing is left then
   */
  attach(plug: NetworkPlug): Promise<AttachedNetwork>;
}

export interface NetworkPlug {
  /** A tap for a virtual machine, or a pair of virtual interfaces for a container. */
  readonly kind: 'tap' | 'veth';
  /** The user that the tap is for. */
  readonly owner: number;
  /** What makes the network joins the sandbox's control groups by these files. */
  readonly procsFiles: readonly string[];
}

/** The tap that a machine's network card is connected to, in its namespace (`gate/place.h`). */
export const TAP_INTERFACE = 'gate0';
/** What that card's hardware address must be (`guest/agent/network.h`): nothing else comes through. */
export const GUEST_MAC = '02:00:00:00:00:02';

/** What a network adds to the processes of a sandbox's control group: the gate, and what that calls at first. */
export const GATE_PROCESSES = 2;

export interface AttachedNetwork extends AsyncDisposable {
  /** The network namespace with the sandbox's end of the wire, as a file. */
  readonly namespacePath: string;
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
  /** The driver's own to write and, with suspicion, to read. */
  readonly state?: unknown;
}

/** How a sandbox stopped, seen from the host. It says nothing about the function. */
export interface SandboxExit {
  readonly code: number | null;
  readonly signal: string | null;
}

export interface Sandbox extends AsyncDisposable {
  readonly handle: SandboxHandle;
  /**
   * From now on it does not end with the daemon, so that a later life can take it up by its handle; before, it does. Only with
   * `capabilities.recover`.
   */
  outlive?(): void;
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
