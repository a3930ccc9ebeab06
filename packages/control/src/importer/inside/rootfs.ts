import { lstatSync, readdirSync, utimesSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { ImportFailure, shown } from './failure.ts';
import { run } from './run.ts';

/** Fixed, so that the same tree makes the same image and so the same digest. */
const IMAGE_UUID = 'c0c04e00-0000-4000-8000-000000000001';

/** Applies the layers of the image `image` in an OCI layout to an empty directory. */
export async function unpack(layout: string, tree: string): Promise<void> {
  const { ok, stderr } = await run('umoci', ['raw', 'unpack', '--image', `${layout}:image`, tree]);
  if (!ok) {
    const last =
      stderr
        .trim()
        .split('\n')
        .findLast((line) => line.trim() !== '') ?? '';
    throw new ImportFailure('image_refused', `the layers do not fit on each other: ${shown(last, 400)}`);
  }
}

/**
 * Gives a fixed time to the directories that no layer has a time for. Layers' times are whole seconds by now, and what the kernel
 * gave is not.
 */
export function settleTimes(directory: Buffer): void {
  for (const entry of readdirSync(directory, { withFileTypes: true, encoding: 'buffer' })) {
    if (entry.isDirectory()) settleTimes(Buffer.concat([directory, Buffer.from('/'), entry.name]));
  }
  if (lstatSync(directory, { bigint: true }).mtimeNs % 1_000_000_000n !== 0n) utimesSync(directory, 0, 0);
}

/**
 * Makes the read-only file system: blocks of 4096 bytes, not compressed, without extended attributes.
 *
 * A fixed time (`-T`) would replace every file's own, and programs look at these; without it the time of making is in the superblock,
 * where it is taken out afterwards.
 */
export async function pack(tree: string, image: string): Promise<void> {
  const { ok, stderr } = await run('mkfs.erofs', [
    '-x-1',
    `-U${IMAGE_UUID}`,
    '-Eforce-inode-extended',
    '--quiet',
    image,
    tree,
  ]);
  if (!ok) {
    const last = stderr.trim().split('\n').at(-1) ?? '';
    throw new ImportFailure('image_refused', `the root file system cannot be made: ${shown(last, 400)}`);
  }
  await clearMakingTime(image);
}

const SUPERBLOCK_AT = 1024;
const SUPERBLOCK_MAGIC = 0xe0f5e1e2;
const FEATURE_CHECKSUM = 1;
const BLOCK_BYTES = 4096;

async function clearMakingTime(image: string): Promise<void> {
  await using file = await open(image, 'r+');
  const block = Buffer.alloc(BLOCK_BYTES - SUPERBLOCK_AT);
  await file.read(block, 0, block.length, SUPERBLOCK_AT);
  if (block.readUInt32LE(0) !== SUPERBLOCK_MAGIC || block[12] !== 12)
    throw new Error('mkfs.erofs made something unknown');
  block.fill(0, 24, 36);
  if ((block.readUInt32LE(8) & FEATURE_CHECKSUM) !== 0) {
    block.writeUInt32LE(0, 4);
    block.writeUInt32LE(crc32c(block), 4);
  }
  await file.write(block, 0, block.length, SUPERBLOCK_AT);
}

/** As the kernel computes it here: seeded with all ones, not inverted at the end. */
function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return crc >>> 0;
}
