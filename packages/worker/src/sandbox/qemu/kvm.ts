import { execFile } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import type { Artifacts } from '../microvm/artifacts.ts';
import { QemuDriver } from './qemu-driver.ts';

/** Whether a guest ran under KVM on this host, and what was seen. */
export interface KvmVerdict {
  readonly works: boolean;
  readonly reason: string;
}

const CachedVerdict = z.object({ of: z.string(), works: z.boolean(), reason: z.string() });

/** A guest under KVM is ready in a fraction of this. */
const PROBE_DEADLINE_MS = 8_000;
const PROBE_SHAPE = { memoryMiB: 128, cpus: 1, scratchMiB: 64 };

export interface KvmProbeOptions {
  readonly artifacts: Artifacts;
  /** For the machine of the probe; it has it to itself. */
  readonly runDir: string;
  readonly daemonTag: string;
  /** Where the verdict is kept: it holds for this host, kernel and QEMU. */
  readonly cachePath: string;
}

/**
 * `/dev/kvm` may be there and yet run no guest (on hosts that are themselves virtual, for one): only a boot tells. The first call boots a machine
 * once, and its verdict is kept until the host's kernel, the processor, QEMU or the guest's kernel changes.
 */
export async function probeKvm(options: KvmProbeOptions): Promise<KvmVerdict> {
  const closed = kvmClosed();
  if (closed !== null) return closed;
  const of = await subject(options.artifacts);
  const cached = readCache(options.cachePath, of);
  if (cached !== null) return cached;
  const verdict = await bootOnce(options);
  writeCache(options.cachePath, { of, ...verdict });
  return verdict;
}

/** What an earlier probe found; null when there was none for this host as it is. Boots nothing. */
export async function knownKvmVerdict(artifacts: Artifacts, cachePath: string): Promise<KvmVerdict | null> {
  return kvmClosed() ?? readCache(cachePath, await subject(artifacts));
}

function kvmClosed(): KvmVerdict | null {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return null;
  } catch (error) {
    const isAbsent = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return { works: false, reason: isAbsent ? 'there is no /dev/kvm' : '/dev/kvm may not be opened' };
  }
}

async function bootOnce({ artifacts, runDir, daemonTag }: KvmProbeOptions): Promise<KvmVerdict> {
  const inTime = AbortSignal.timeout(PROBE_DEADLINE_MS);
  try {
    await using driver = new QemuDriver({ artifacts, runDir, daemonTag, snapshots: null, accelerator: 'kvm' });
    await driver.prepare();
    const began = performance.now();
    await using _machine = await driver.startBlank('kvm_probe', PROBE_SHAPE, inTime);
    return { works: true, reason: `a guest booted under KVM in ${Math.round(performance.now() - began)} ms` };
  } catch (error) {
    if (inTime.aborted) {
      return { works: false, reason: `no guest boots under KVM here within ${PROBE_DEADLINE_MS / 1000} s` };
    }
    return {
      works: false,
      reason: `no guest boots under KVM here: ${error instanceof Error ? error.message : 'unknown'}`,
    };
  }
}

async function subject({ qemu, kernel }: Artifacts): Promise<string> {
  const { stdout } = await promisify(execFile)(qemu, ['--version']);
  const model = /^model name\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1] ?? '';
  return [release(), model, stdout.split('\n')[0], kernel].join('; ');
}

function readCache(path: string, of: string): KvmVerdict | null {
  try {
    const cached = CachedVerdict.parse(JSON.parse(readFileSync(path, 'utf8')));
    return cached.of === of ? { works: cached.works, reason: cached.reason } : null;
  } catch {
    return null;
  }
}

function writeCache(path: string, content: z.infer<typeof CachedVerdict>): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, `${JSON.stringify(content)}\n`);
  renameSync(`${path}.new`, path);
}
