import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import type { Artifacts } from './artifacts.ts';
import type { SnapshotKey } from './snapshot-store.ts';

/** What every snapshot of this host and these artifacts depends on, whatever the shape. `vmm` says the monitor's version. */
export async function commonKey({ kernel, initrd }: Pick<Artifacts, 'kernel' | 'initrd'>, vmm: string) {
  const [kernelDigest, initrdDigest, cpuinfo] = await Promise.all([
    digestOf(kernel),
    digestOf(initrd),
    readFile('/proc/cpuinfo', 'latin1'),
  ]);
  return { kernel: kernelDigest, initrd: initrdDigest, vmm, cpu: cpuModel(cpuinfo) } satisfies SnapshotKey;
}

/** SHA-256 of a file, in hex. */
export async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

/** Model and features: a machine that was started on one processor is not continued on another. */
function cpuModel(cpuinfo: string): string {
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(cpuinfo)?.[1] ?? '';
  return `${field('model name')} ${field('stepping')} ${field('microcode')} ${field('flags')}`;
}
