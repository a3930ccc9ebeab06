import { type Contents, writeAt } from './contents.ts';
import {
  BLOCK_BYTES,
  encodeEntries,
  encodeInode,
  encodeSuperblock,
  entriesOfBlock,
  INODE_BYTES,
  MAX_INLINE_BYTES,
  SLOT_BYTES,
} from './erofs-format.ts';
import type { Directory, File, Inode } from './tree.ts';

/** Blocks of inodes that are filled at the same time: what does not fit in one may fit in another. */
const OPEN_BLOCKS = 16;
const PIECE_BLOCKS = 256;

/** An inode with all that the image says of it. */
interface Placed {
  readonly inode: Inode;
  /** The directory that names it; the root names itself. */
  readonly parent: Placed | null;
  links: number;
  number: number;
  bytes: number;
  block: number;
  blocks: number;
  /** What follows the inode directly. */
  inlineBytes: number;
  /** Its distance from the first block of inodes, in bytes. */
  at: number;
}

/**
 * Completes the image. The files' blocks are there; after them come the whole blocks of directories and links, and then the inodes, each with
 * what is left. The order is that in which the layers made them, so the same layers make the same bytes. Not compressed,
 * without extended attributes; every file keeps its own time, for programs look at it.
 */
export async function writeRootfs(root: Directory, contents: Contents): Promise<void> {
  const placed = new Map<Inode, Placed>();
  collect(root, null, placed);
  const all = [...placed.values()].sort((one, other) => one.inode.serial - other.inode.serial);
  const files = all.map(({ inode }) => inode).filter((inode): inode is File => inode.type === 'file');
  const firstOwnBlock = await contents.close(files);
  let block = firstOwnBlock;
  for (const [index, one] of all.entries()) {
    one.number = index + 1;
    Object.assign(one, extentOf(one.inode));
    if (one.inode.type === 'file') continue;
    one.block = block;
    block += one.blocks;
  }
  const firstInodeBlock = block;
  const inodeBlocks = place(all);

  const out = new Blocks(contents, firstOwnBlock);
  for (const one of all) {
    if (one.inode.type === 'file') continue;
    for (const bytes of wholeBlocks(one, placed)) await out.add(bytes);
  }
  for (const inodes of inodeBlocks) {
    const bytes = Buffer.alloc(BLOCK_BYTES);
    for (const one of inodes) {
      const { type, mode, uid, gid, modifiedAt } = one.inode;
      const at = one.at % BLOCK_BYTES;
      encodeInode(bytes, at, { ...one, type, mode, uid, gid, modifiedAt });
      if (one.inlineBytes > 0) encodeInline(one, placed, contents, bytes, at + INODE_BYTES);
    }
    await out.add(bytes);
  }
  await out.flush();
  const superblock = encodeSuperblock({
    rootAt: placed.get(root)!.at,
    inodes: all.length,
    blocks: firstInodeBlock + inodeBlocks.length,
    firstInodeBlock,
  });
  await writeAt(contents.image, superblock, 0);
}

function collect(inode: Inode, parent: Placed | null, placed: Map<Inode, Placed>): void {
  const before = placed.get(inode);
  if (before !== undefined) {
    before.links += 1;
    return;
  }
  const one = { inode, parent, links: 1, number: 0, bytes: 0, block: 0, blocks: 0, inlineBytes: 0, at: 0 };
  placed.set(inode, one);
  if (inode.type !== 'directory') return;
  // Its own `.`, and the `..` of those in it.
  one.links = 2;
  for (const { inode: below } of inode.names?.values() ?? []) {
    if (below.type === 'directory') one.links += 1;
    collect(below, one, placed);
  }
}

function extentOf(inode: Inode): Pick<Placed, 'bytes' | 'block' | 'blocks' | 'inlineBytes'> {
  switch (inode.type) {
    case 'file': {
      const { block, blocks, tailBytes } = inode.content;
      return { bytes: inode.bytes, block, blocks, inlineBytes: tailBytes };
    }
    case 'symlink':
      return split(inode.target.length);
    case 'fifo':
      return split(0);
    case 'directory': {
      const names = namesOf(inode);
      let bytes = 0;
      for (let from = 0; from < names.length;) {
        const block = entriesOfBlock(names, from);
        bytes = Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES + block.bytes;
        from = block.to;
      }
      return split(bytes);
    }
  }
}

function split(bytes: number): Pick<Placed, 'bytes' | 'block' | 'blocks' | 'inlineBytes'> {
  const rest = bytes % BLOCK_BYTES;
  const inlineBytes = rest <= MAX_INLINE_BYTES ? rest : 0;
  return { bytes, block: 0, blocks: Math.ceil((bytes - inlineBytes) / BLOCK_BYTES), inlineBytes };
}

/** Gives each inode its place, and so its number. @returns what each block of inodes has */
function place(all: readonly Placed[]): Placed[][] {
  // Number 0 is none to those who list directories.
  const first = { index: 0, used: INODE_BYTES };
  const blocks: Placed[][] = [[]];
  let open = [first];
  for (const one of all) {
    const bytes = INODE_BYTES + one.inlineBytes;
    let block = open.find(({ used }) => used + bytes <= BLOCK_BYTES);
    if (block === undefined) {
      block = { index: blocks.length, used: 0 };
      blocks.push([]);
      if (open.length === OPEN_BLOCKS) {
        const fullest = open.reduce((best, other) => (other.used > best.used ? other : best));
        open = open.filter((other) => other !== fullest);
      }
      open.push(block);
    }
    one.at = block.index * BLOCK_BYTES + block.used;
    blocks[block.index]!.push(one);
    block.used = Math.ceil((block.used + bytes) / SLOT_BYTES) * SLOT_BYTES;
  }
  return blocks;
}

function* wholeBlocks(one: Placed, placed: ReadonlyMap<Inode, Placed>): Generator<Buffer> {
  if (one.blocks === 0) return;
  if (one.inode.type === 'symlink') {
    const bytes = Buffer.alloc(BLOCK_BYTES);
    bytes.write(one.inode.target, 'latin1');
    yield bytes;
  } else if (one.inode.type === 'directory') {
    const names = namesOf(one.inode);
    let from = 0;
    for (let index = 0; index < one.blocks; index += 1) {
      const { to } = entriesOfBlock(names, from);
      const bytes = Buffer.alloc(BLOCK_BYTES);
      encodeEntries(bytes, 0, entries(one, names.slice(from, to), placed));
      yield bytes;
      from = to;
    }
  }
}

function encodeInline(
  one: Placed,
  placed: ReadonlyMap<Inode, Placed>,
  contents: Contents,
  into: Buffer,
  at: number,
): void {
  if (one.inode.type === 'file') contents.readTail(one.inode.content, into, at);
  else if (one.inode.type === 'symlink') into.write(one.inode.target, at, 'latin1');
  else if (one.inode.type === 'directory') {
    const names = namesOf(one.inode);
    let from = 0;
    for (let index = 0; index < one.blocks; index += 1) from = entriesOfBlock(names, from).to;
    encodeEntries(into, at, entries(one, names.slice(from), placed));
  }
}

/** In the order of their bytes, which is the order of Latin-1 strings. */
function namesOf({ names }: Directory): string[] {
  return ['.', '..', ...(names?.keys() ?? [])].sort();
}

function entries(one: Placed, names: readonly string[], placed: ReadonlyMap<Inode, Placed>) {
  const directory = one.inode as Directory;
  return names.map((name) => {
    if (name === '.') return { name, type: 'directory' as const, inodeAt: one.at };
    if (name === '..') return { name, type: 'directory' as const, inodeAt: (one.parent ?? one).at };
    const { inode } = directory.names!.get(name)!;
    return { name, type: inode.type, inodeAt: placed.get(inode)!.at };
  });
}

/** Blocks of the image, one after the other, written many at a time. */
class Blocks {
  readonly #contents: Contents;
  #next: number;
  #pending: Buffer[] = [];

  constructor(contents: Contents, first: number) {
    this.#contents = contents;
    this.#next = first;
  }

  async add(block: Buffer): Promise<void> {
    this.#pending.push(block);
    if (this.#pending.length === PIECE_BLOCKS) await this.flush();
  }

  async flush(): Promise<void> {
    await writeAt(this.#contents.image, Buffer.concat(this.#pending), this.#next * BLOCK_BYTES);
    this.#next += this.#pending.length;
    this.#pending = [];
  }
}
