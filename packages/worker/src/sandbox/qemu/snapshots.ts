import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import type { Logger } from 'pino';
import { awakeClock } from '../../host/clock.ts';
import type { SandboxShape } from '../driver.ts';
import type { Artifacts } from '../microvm/artifacts.ts';
import type { SnapshotKey, SnapshotStore } from '../microvm/snapshot-store.ts';
import type { Machine, QemuLauncher } from './launcher.ts';
import { makeTemplate } from './template.ts';

export interface QemuSnapshotsOptions {
  readonly store: SnapshotStore;
  readonly launcher: QemuLauncher;
  readonly artifacts: Artifacts;
  readonly bootDeadlineMs: number;
  readonly log?: Logger | undefined;
}

/** A snapshot that could not be made is tried again after this. */
const RETRY_MS = 60_000;

/** The snapshots of one QEMU on one host: one for each shape, made when it is first asked for. */
export class QemuSnapshots implements AsyncDisposable {
  readonly #options: QemuSnapshotsOptions;
  readonly #versions: SnapshotKey;
  readonly #making = new Set<Promise<void>>();
  #serial = 0;
  #failedAtMs: number | null = null;

  private constructor(options: QemuSnapshotsOptions, versions: SnapshotKey) {
    this.#options = options;
    this.#versions = versions;
  }

  static async open(options: QemuSnapshotsOptions): Promise<QemuSnapshots> {
    const { kernel, initrd, qemu } = options.artifacts;
    const [kernelDigest, initrdDigest, { stdout: version }, cpuinfo] = await Promise.all([
      digestOf(kernel),
      digestOf(initrd),
      promisify(execFile)(qemu, ['--version']),
      readFile('/proc/cpuinfo', 'latin1'),
    ]);
    return new QemuSnapshots(options, {
      kernel: kernelDigest,
      initrd: initrdDigest,
      vmm: version.split('\n')[0]!,
      cpu: cpuModel(cpuinfo),
    });
  }

  /** The snapshot of the shape, open for reading; null when it cannot be made now: then the machine boots. */
  async open(shape: SandboxShape): Promise<FileHandle | null> {
    const { store, log } = this.#options;
    if (this.#failedAtMs !== null && awakeClock() - this.#failedAtMs < RETRY_MS) return null;
    try {
      const file = await store.open(this.#key(shape), (path) => this.#make(shape, path));
      this.#failedAtMs = null;
      return file;
    } catch (err) {
      this.#failedAtMs = awakeClock();
      log?.warn({ err }, 'a snapshot cannot be made: sandboxes boot instead');
      return null;
    }
  }

  /** Watches a clone: one that ends by itself without a word from its agent speaks against the snapshot. */
  judge(shape: SandboxShape, { sandbox, agent }: Machine): void {
    void sandbox.exited.then(({ code }) => {
      if (code === null || code === 0 || agent.bytesRead > 0) return;
      this.#options.log?.warn(
        { code, console: sandbox.console().slice(-500) },
        'a snapshot does not start, and is removed',
      );
      void this.#options.store.discard(this.#key(shape)).catch(() => undefined);
    });
  }

  /** Waits for what is being made. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#making);
  }

  #key({ memoryMiB, cpus }: SandboxShape): SnapshotKey {
    // Scratch is no part of it: drives are placeholders in a snapshot.
    const command = this.#options.launcher.command({ memoryMiB, cpus, scratchMiB: 0 }, 'placeholders', false);
    return { ...this.#versions, memoryMiB, cpus, command: command.join('\n') };
  }

  async #make(shape: SandboxShape, path: string): Promise<void> {
    const { launcher, bootDeadlineMs, log } = this.#options;
    this.#serial += 1;
    const began = awakeClock();
    const making = makeTemplate(launcher, `template_${this.#serial}`, shape, path, bootDeadlineMs);
    this.#making.add(making);
    try {
      await making;
    } finally {
      this.#making.delete(making);
    }
    log?.info({ ...shape, madeInMs: Math.round(awakeClock() - began) }, 'snapshot made');
  }
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

/** Model and features: a machine that was started on one processor is not continued on another. */
function cpuModel(cpuinfo: string): string {
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(cpuinfo)?.[1] ?? '';
  return `${field('model name')} ${field('stepping')} ${field('microcode')} ${field('flags')}`;
}
