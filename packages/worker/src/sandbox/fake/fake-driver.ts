import { type MeterReading } from '@cocore/protocol';
import { type Duplex, duplexPair } from 'node:stream';
import { type HostCheck, passed } from '../../host/check.ts';
import { awakeClock } from '../../host/clock.ts';
import { ConsoleRing } from '../console-ring.ts';
import type { DriverCapabilities, Sandbox, SandboxDriver, SandboxExit, SandboxHandle, SandboxSpec } from '../driver.ts';
import { FakeGuest } from './fake-guest.ts';
import type { WriteLedger } from './ledger.ts';

/** What stands in the place of the machine: it speaks on the guest's end of the stream until it is disposed of. */
export interface GuestDouble extends Disposable {
  /** Resolves when the guest ends by itself. */
  readonly ended: Promise<void>;
  /** Takes the newest connection of the host for the one that counts. Without it a new one is met by silence. */
  connect?(stream: Duplex): void;
}

export interface FakeDriverOptions {
  /** Makes the guest; a test may give a hostile one. */
  readonly guest?: (stream: Duplex, console: (text: string) => void, spec: SandboxSpec) => GuestDouble;
  readonly bootDeadlineMs?: number;
  /** Its sandboxes live as long as the driver: two lives of a daemon that share it are in one process. */
  readonly recover?: boolean;
  /**
   * Whether it takes functions with a network, for tests of what the daemon does with such; the default is no. They reach nothing: a script makes no
   * connection, and is attached to none.
   */
  readonly network?: boolean;
  /** Where the side effects of its functions go; the default is nowhere. */
  readonly ledger?: WriteLedger;
}

class FakeSandbox implements Sandbox {
  readonly handle: SandboxHandle;
  agent: Duplex;
  readonly exited: Promise<SandboxExit>;
  readonly #guest: GuestDouble;
  #guestEnd: Duplex;
  readonly #ring = new ConsoleRing();
  readonly #exit = Promise.withResolvers<SandboxExit>();
  readonly #beganMs = awakeClock();
  readonly #onGone: () => void;
  #wallMs: number | null = null;

  constructor(spec: SandboxSpec, makeGuest: NonNullable<FakeDriverOptions['guest']>, onGone: () => void) {
    this.#onGone = onGone;
    this.handle = { version: 1, driver: 'fake', name: spec.name };
    this.exited = this.#exit.promise;
    [this.agent, this.#guestEnd] = connection();
    this.#guest = makeGuest(this.#guestEnd, (text) => this.#ring.push(Buffer.from(text)), spec);
    void this.#guest.ended.then(() => this.#end({ code: 0, signal: null }));
  }

  /** The host has lost its end. */
  reconnect(): void {
    this.agent.destroy();
    [this.agent, this.#guestEnd] = connection();
    this.#guest.connect?.(this.#guestEnd);
  }

  console(): string {
    return this.#ring.text();
  }

  async usage(): Promise<MeterReading> {
    return { cpuMs: null, memoryPeakBytes: null, wallMs: this.#wallMs ?? awakeClock() - this.#beganMs };
  }

  async destroy(): Promise<void> {
    this.#guest[Symbol.dispose]();
    this.#end({ code: null, signal: 'SIGKILL' });
    this.agent.destroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  #end(exit: SandboxExit): void {
    if (this.#wallMs === null) this.#onGone();
    this.#wallMs ??= awakeClock() - this.#beganMs;
    this.#guestEnd.destroy();
    this.#exit.resolve(exit);
  }
}

/** The host's end, and the guest's. Writes to a machine that is gone are lost, as they are with a real one. */
function connection(): [Duplex, Duplex] {
  const ends = duplexPair();
  for (const end of ends) end.on('error', () => undefined);
  return ends;
}

/**
 * A driver without machines, for tests and benchmarks: its guest speaks real frames and, instead of the function, plays the
 * steps that stand in the arguments (see `FakeGuest`).
 */
export class FakeDriver implements SandboxDriver {
  readonly capabilities: DriverCapabilities;
  readonly #makeGuest: NonNullable<FakeDriverOptions['guest']>;
  readonly #ledger: WriteLedger;
  readonly #alive = new Set<FakeSandbox>();

  constructor(options: FakeDriverOptions = {}) {
    const ledger = options.ledger ?? (() => undefined);
    this.#ledger = ledger;
    this.#makeGuest =
      options.guest ??
      ((stream, console, { name }) =>
        new FakeGuest(stream, console, (text) => ledger({ what: 'effect', attemptId: name, text })));
    this.capabilities = {
      name: 'fake',
      isolation: 'container',
      snapshot: false,
      recover: options.recover ?? false,
      network: options.network ?? false,
      runsCode: false,
      overheadMiB: 0,
      overheadRatio: 0,
      bootDeadlineMs: options.bootDeadlineMs ?? 5_000,
    };
  }

  async probe(): Promise<HostCheck[]> {
    return [passed('fake driver', 'runs anywhere, and runs no code')];
  }

  async prepare(): Promise<void> {}

  async start(spec: SandboxSpec, signal: AbortSignal): Promise<Sandbox> {
    signal.throwIfAborted();
    const row = { attemptId: spec.name, text: '' };
    this.#ledger({ what: 'begun', ...row });
    const sandbox = new FakeSandbox(spec, this.#makeGuest, () => this.#ledger({ what: 'gone', ...row }));
    this.#alive.add(sandbox);
    void sandbox.exited.then(() => this.#alive.delete(sandbox));
    return sandbox;
  }

  /** What this driver started and still runs: its guests live and die with it. */
  async recover({ name }: SandboxHandle): Promise<Sandbox | null> {
    if (!this.capabilities.recover) return null;
    const sandbox = [...this.#alive].find(({ handle }) => handle.name === name) ?? null;
    sandbox?.reconnect();
    return sandbox;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sandbox of this.#alive) await sandbox.destroy();
  }
}
