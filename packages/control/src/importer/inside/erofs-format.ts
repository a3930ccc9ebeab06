/** What an erofs has on its disk: little endian, blocks of 4096 bytes. Its documentation is `fs/erofs/erofs_fs.h` in Linux. */

export const BLOCK_BYTES = 4096;
export const SUPERBLOCK_AT = 1024;
/** Of an inode in its longer form, the one that holds every id and time. */
export const INODE_BYTES = 64;
/** Inodes are numbered by their distance from the first block of inodes, in such slots. */
export const SLOT_BYTES = 32;
export const ENTRY_BYTES = 12;
/** What follows an inode directly may not go over the end of the block. */
export const MAX_INLINE_BYTES = BLOCK_BYTES - INODE_BYTES;

/** Fixed, so that the same tree makes the same image and so the same digest. */
const IMAGE_UUID = Buffer.from('c0c04e00000040008000000000000001', 'hex');
const MAGIC = 0xe0f5e1e2;
const HAS_CHECKSUM = 1;
const HAS_OWN_TIMES = 2;

const TYPES = {
  file: { mode: 0o100000, entry: 1 },
  directory: { mode: 0o040000, entry: 2 },
  fifo: { mode: 0o010000, entry: 5 },
  symlink: { mode: 0o120000, entry: 7 },
} as const;

export type InodeType = keyof typeof TYPES;

export interface InodeFields {
  readonly type: InodeType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedAt: number;
  readonly links: number;
  /** What `stat` shows where it has room for 32 bits only. */
  readonly number: number;
  readonly bytes: number;
  /** The first of the whole blocks, and how many there are. */
  readonly block: number;
  readonly blocks: number;
  readonly inlineBytes: number;
}

export function encodeInode(into: Buffer, at: number, inode: InodeFields): void {
  const inline = inode.inlineBytes > 0;
  const nowhere = inline ? 0xffffffff : 0;
  into.writeUInt16LE(inline ? 0b101 : 0b001, at);
  into.writeUInt16LE(TYPES[inode.type].mode | inode.mode, at + 4);
  into.writeBigUInt64LE(BigInt(inode.bytes), at + 8);
  into.writeUInt32LE(inode.blocks > 0 ? inode.block : nowhere, at + 16);
  into.writeUInt32LE(inode.number, at + 20);
  into.writeUInt32LE(inode.uid, at + 24);
  into.writeUInt32LE(inode.gid, at + 28);
  into.writeBigUInt64LE(BigInt(inode.modifiedAt), at + 32);
  into.writeUInt32LE(inode.links, at + 44);
}

/** A name in a directory, as a Latin-1 string. */
export interface Entry {
  readonly name: string;
  readonly type: InodeType;
  /** The inode's distance from the first block of inodes, in bytes. */
  readonly inodeAt: number;
}

/** How many of the names, from `from` on, one block of a directory takes, and in how many bytes. */
export function entriesOfBlock(names: readonly string[], from: number): { to: number; bytes: number } {
  let bytes = 0;
  let to = from;
  for (; to < names.length; to += 1) {
    const more = bytes + ENTRY_BYTES + names[to]!.length;
    if (more > BLOCK_BYTES) break;
    bytes = more;
  }
  return { to, bytes };
}

/** All the entries first, then all the names. */
export function encodeEntries(into: Buffer, at: number, entries: readonly Entry[]): void {
  let nameAt = entries.length * ENTRY_BYTES;
  for (const [index, { name, type, inodeAt }] of entries.entries()) {
    const entryAt = at + index * ENTRY_BYTES;
    into.writeBigUInt64LE(BigInt(inodeAt / SLOT_BYTES), entryAt);
    into.writeUInt16LE(nameAt, entryAt + 8);
    into.writeUInt8(TYPES[type].entry, entryAt + 10);
    into.write(name, at + nameAt, 'latin1');
    nameAt += name.length;
  }
}

export interface SuperblockFields {
  readonly rootAt: number;
  readonly inodes: number;
  readonly blocks: number;
  readonly firstInodeBlock: number;
}

/** The first block. It has no time of making. */
export function encodeSuperblock({ rootAt, inodes, blocks, firstInodeBlock }: SuperblockFields): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const superblock = block.subarray(SUPERBLOCK_AT);
  superblock.writeUInt32LE(MAGIC, 0);
  superblock.writeUInt32LE(HAS_CHECKSUM | HAS_OWN_TIMES, 8);
  superblock.writeUInt8(Math.log2(BLOCK_BYTES), 12);
  superblock.writeUInt16LE(rootAt / SLOT_BYTES, 14);
  superblock.writeBigUInt64LE(BigInt(inodes), 16);
  superblock.writeUInt32LE(blocks, 36);
  superblock.writeUInt32LE(firstInodeBlock, 40);
  IMAGE_UUID.copy(superblock, 48);
  superblock.writeUInt32LE(crc32c(superblock), 4);
  return block;
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
