import type { Logger } from 'pino';
import { awakeClock } from '../../host/clock.ts';
import type { SandboxShape } from '../driver.ts';
import type { ProcessSandbox } from '../process-sandbox.ts';
import type { Snapshot, SnapshotKey, SnapshotStore } from './snapshot-store.ts';

/** What machines of one snapshot have in common. */
export interface MachineShape extends SandboxShape {
  /** It has a network card. */
  readonly hasNetwork: boolean;
}

export interface ShapeSnapshotsOptions {
  readonly store: SnapshotStore;
  /** The files of each snapshot. */
  readonly fileNames: readonly string[];
  readonly keyOf: (shape: MachineShape) => SnapshotKey;
  /** Boots a machine of the shape under a name of its own, and writes it down; ends early when `signal` aborts. */
  readonly make: (name: string, shape: MachineShape, directory: string, signal: AbortSignal) => Promise<void>;
  /** A clone that is given up when half of this has passed, and whose agent has not said a word, is a failed one. */
  readonly bootDeadlineMs: number;
  readonly log?: Logger | undefined;
}

/** A snapshot that could not be made is tried again after this. */
const RETRY_MS = 60_000;

/** The snapshots of one monitor on one host: one for each shape, made when it is first asked for. */
export class ShapeSnapshots implements AsyncDisposable {
  readonly #options: ShapeSnapshotsOptions;
  readonly #stop = new AbortController();
  readonly #making = new Set<Promise<void>>();
  /** Under way: whoever asks meanwhile must not be given what is being removed. */
  readonly #discarding = new Set<Promise<void>>();
  #serial = 0;
  #failedAtMs: number | null = null;

  constructor(options: ShapeSnapshotsOptions) {
    this.#options = options;
  }

  /** The snapshot of the shape; null when it cannot be made now: then the machine boots. Rejects only when `signal` aborts. */
  async open(shape: MachineShape, signal: AbortSignal): Promise<Snapshot | null> {
    if (this.#failedAtMs !== null && awakeClock() - this.#failedAtMs < RETRY_MS) return null;
    const opened = this.#open(shape);
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort);
    try {
      signal.throwIfAborted();
      return await Promise.race([opened, aborted.promise]);
    } catch (error) {
      // It is made all the same, for whoever comes next.
      void opened.then((snapshot) => snapshot?.[Symbol.asyncDispose]());
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Watches a clone: one that ends by itself, or lives for long, without a word from its agent speaks against the snapshot. */
  judge(shape: MachineShape, sandbox: ProcessSandbox, bytesRead: () => number): void {
    const began = awakeClock();
    void sandbox.exited.then(({ code }) => {
      const failed = code !== null && code !== 0;
      if (bytesRead() > 0 || !(failed || awakeClock() - began > this.#options.bootDeadlineMs / 2)) return;
      const said = sandbox.console().slice(-500);
      this.#options.log?.warn({ code, console: said }, 'a snapshot does not start, and is removed');
      void this.discard(shape);
    });
  }

  /** Forgets a snapshot that turned out not to work. */
  async discard(shape: MachineShape): Promise<void> {
    const { store, keyOf, log } = this.#options;
    const discarding = store
      .discard(keyOf(shape))
      .catch((err: unknown) => log?.warn({ err }, 'a snapshot cannot be removed'))
      .finally(() => this.#discarding.delete(discarding));
    this.#discarding.add(discarding);
    await discarding;
  }

  /** Gives up what is being made. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the driver is closed'));
    await Promise.allSettled(this.#making);
  }

  async #open(shape: MachineShape): Promise<Snapshot | null> {
    const { store, fileNames, keyOf, log } = this.#options;
    await Promise.all(this.#discarding);
    try {
      const snapshot = await store.open(keyOf(shape), fileNames, (directory) => this.#make(shape, directory));
      this.#failedAtMs = null;
      return snapshot;
    } catch (err) {
      if (this.#stop.signal.aborted) return null;
      this.#failedAtMs = awakeClock();
      log?.warn({ err }, 'a snapshot cannot be made: sandboxes boot instead');
      return null;
    }
  }

  async #make(shape: MachineShape, directory: string): Promise<void> {
    this.#serial += 1;
    const began = awakeClock();
    const making = this.#options.make(`template_${this.#serial}`, shape, directory, this.#stop.signal);
    this.#making.add(making);
    try {
      await making;
    } finally {
      this.#making.delete(making);
    }
    const { memoryMiB, cpus, hasNetwork } = shape;
    const madeInMs = Math.round(awakeClock() - began);
    this.#options.log?.info({ memoryMiB, cpus, hasNetwork, madeInMs }, 'snapshot made');
  }
}
