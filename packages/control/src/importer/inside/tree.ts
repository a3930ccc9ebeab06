import { ImportFailure, shown } from './failure.ts';
import type { TarEntry } from './tar-entry.ts';

/** As the kernel. */
const MAX_LINKS = 40;
const MAX_NAME_BYTES = 255;
const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Where a file's bytes are. */
export interface Content {
  /** The first whole block, counted in blocks of the image; of no meaning where there is none. */
  block: number;
  readonly blocks: number;
  /** Of the bytes after the whole blocks, in the file of tails. */
  readonly tailAt: number;
  readonly tailBytes: number;
}

interface Attributes {
  mode: number;
  uid: number;
  gid: number;
  modifiedAt: number;
}

export interface Directory extends Attributes {
  readonly type: 'directory';
  readonly serial: number;
  /** Null where there is nothing in it. */
  names: Map<string, Name> | null;
}

export interface File extends Attributes {
  readonly type: 'file';
  readonly serial: number;
  readonly bytes: number;
  readonly content: Content;
}

export interface Symlink extends Attributes {
  readonly type: 'symlink';
  readonly serial: number;
  readonly target: string;
}

export interface Fifo extends Attributes {
  readonly type: 'fifo';
  readonly serial: number;
}

/** `serial` counts them in the order in which they were made. */
export type Inode = Directory | File | Symlink | Fifo;

/** One name of an inode. */
interface Name<I extends Inode = Inode> {
  readonly inode: I;
  /** The last layer that made it, or something below it. */
  layer: number;
}

/**
 * The files of an image, in memory, as layer after layer is applied. A path is followed as by a process whose root the tree is: no link
 * leads out. Names are Latin-1 strings.
 */
export class ImageTree {
  readonly #maxFiles: number;
  readonly #maxDepth: number;
  readonly #root: Name<Directory> = { inode: directory(0), layer: 0 };
  #layer = 0;
  #files = 0;
  #serial = 0;

  /** @param maxFiles how many files, directories and links the layers may make in all, also those that later ones remove */
  constructor(maxFiles: number, maxDepth: number) {
    this.#maxFiles = maxFiles;
    this.#maxDepth = maxDepth;
  }

  get root(): Directory {
    return this.#root.inode;
  }

  beginLayer(): void {
    this.#layer += 1;
  }

  /**
   * Applies an entry of the layer: makes what it says, or removes what it covers, of which what this layer has made stays.
   *
   * @param content where the bytes of a file will be; called for no other entry
   * @throws ImportFailure `image_too_large`, `image_refused`
   */
  apply(entry: TarEntry, content: () => Content): void {
    const parts = entry.path === '' ? [] : entry.path.split('/');
    const name = parts.pop();
    if (parts.length >= this.#maxDepth) throw this.#tooDeep();
    if (entry.type !== 'directory') this.#one();
    if (name === undefined) {
      this.#root.layer = this.#layer;
      Object.assign(this.root, attributesOf(entry));
      return;
    }
    if (name.startsWith(WHITEOUT)) {
      this.#cover(parts, name);
      return;
    }
    const above = this.#directories(parts, entry.path);
    for (const each of above) each.layer = this.#layer;
    const { inode: parent } = above.at(-1)!;
    const before = parent.names?.get(name);
    if (entry.type === 'directory' && before?.inode.type === 'directory') {
      before.layer = this.#layer;
      Object.assign(before.inode, attributesOf(entry));
      return;
    }
    parent.names?.delete(name);
    this.#put(parent, name, this.#inodeOf(entry, content));
  }

  /** A regular file, through links. */
  file(path: string): File | null {
    const walked = this.#walk(path.split('/'));
    return walked.end?.type === 'file' && walked.missing.length === 0 ? walked.end : null;
  }

  /**
   * Makes the directory and those above it where they are missing, owned by root.
   *
   * @throws ImportFailure `image_refused` where something else is there
   */
  ensureDirectory(path: string): void {
    const { end, chain, missing } = this.#walk(path.split('/'));
    if (end !== null) {
      throw new ImportFailure('image_refused', `the working directory ${shown(path)} is not a directory in the image`);
    }
    this.#make(chain, missing);
  }

  #inodeOf(entry: TarEntry, content: () => Content): Inode {
    const attributes = attributesOf(entry);
    switch (entry.type) {
      case 'hardlink':
        return this.#linked(entry);
      case 'file':
        return { type: 'file', serial: this.#next(), ...attributes, bytes: entry.bytes, content: content() };
      case 'symlink':
        return { type: 'symlink', serial: this.#next(), ...attributes, mode: 0o777, target: entry.linkTarget };
      case 'fifo':
        return { type: 'fifo', serial: this.#next(), ...attributes };
      case 'directory':
        this.#one();
        return { ...directory(this.#next()), ...attributes };
    }
  }

  /** What a hard link leads to: a link itself, not what it leads to. */
  #linked(entry: TarEntry): Inode {
    const parts = entry.linkTarget.split('/');
    const name = parts.pop()!;
    const { end, chain, missing } = this.#walk(parts);
    const found = end === null && missing.length === 0 ? chain.at(-1)!.inode.names?.get(name)?.inode : undefined;
    if (found === undefined || found.type === 'directory') {
      throw misfit(`${shown(entry.path)} is a link to ${shown(entry.linkTarget)}, which is no file`);
    }
    return found;
  }

  #cover(parts: readonly string[], name: string): void {
    const { end, chain, missing } = this.#walk(parts);
    if (end !== null || missing.length > 0) return;
    const { inode } = chain.at(-1)!;
    if (name === OPAQUE) this.#removeEarlierBelow(inode);
    else this.#removeEarlier(inode, name.slice(WHITEOUT.length));
  }

  #removeEarlier(parent: Directory, name: string): void {
    const found = parent.names?.get(name);
    if (found === undefined) return;
    if (found.layer !== this.#layer) parent.names!.delete(name);
    else if (found.inode.type === 'directory') this.#removeEarlierBelow(found.inode);
  }

  #removeEarlierBelow(parent: Directory): void {
    for (const name of parent.names?.keys() ?? []) this.#removeEarlier(parent, name);
  }

  /** From the root to the one that the path leads to; made where they are missing. */
  #directories(parts: readonly string[], path: string): Name<Directory>[] {
    const { end, chain, missing } = this.#walk(parts);
    if (end !== null) throw misfit(`${shown(path)} is below something that is no directory`);
    return this.#make(chain, missing);
  }

  #make(chain: Name<Directory>[], missing: readonly string[]): Name<Directory>[] {
    if (chain.length + missing.length > this.#maxDepth) throw this.#tooDeep();
    for (const name of missing) {
      if (name.length > MAX_NAME_BYTES) throw misfit('a link leads to a name that is too long');
      this.#one();
      chain.push(this.#put(chain.at(-1)!.inode, name, directory(this.#next())));
    }
    return chain;
  }

  #put<I extends Inode>(parent: Directory, name: string, inode: I): Name<I> {
    const made = { inode, layer: this.#layer };
    parent.names ??= new Map();
    // A piece of a string keeps the whole of it in memory.
    parent.names.set(Buffer.from(name, 'latin1').toString('latin1'), made);
    return made;
  }

  /**
   * Follows links, the last one too.
   *
   * `chain` has the directories from the root on; `missing` the names after them that are not there. `end` is what is in the way
   * where a directory would have to be; null where nothing is.
   */
  #walk(parts: readonly string[]): { chain: Name<Directory>[]; missing: string[]; end: Inode | null } {
    const chain = [this.#root];
    const missing: string[] = [];
    const left = [...parts].reverse();
    let links = 0;
    while (left.length > 0) {
      const part = left.pop()!;
      if (part === '' || part === '.') continue;
      if (part === '..') {
        if (missing.pop() === undefined && chain.length > 1) chain.pop();
        continue;
      }
      const found = missing.length > 0 ? undefined : chain.at(-1)!.inode.names?.get(part);
      if (found === undefined) missing.push(part);
      else if (isDirectory(found)) chain.push(found);
      else if (found.inode.type === 'symlink' && links < MAX_LINKS) {
        links += 1;
        if (found.inode.target.startsWith('/')) chain.length = 1;
        left.push(...found.inode.target.split('/').reverse());
      } else {
        return { chain, missing: left.filter((rest) => rest !== '' && rest !== '.'), end: found.inode };
      }
    }
    return { chain, missing, end: null };
  }

  #next(): number {
    this.#serial += 1;
    return this.#serial;
  }

  #one(): void {
    this.#files += 1;
    if (this.#files > this.#maxFiles) {
      throw new ImportFailure('image_too_large', `the image has more than ${this.#maxFiles} files`);
    }
  }

  #tooDeep(): ImportFailure {
    return new ImportFailure('image_refused', `a file in a layer is more than ${this.#maxDepth} directories deep`);
  }
}

function isDirectory(name: Name): name is Name<Directory> {
  return name.inode.type === 'directory';
}

/** As one that no layer names: with a fixed time. */
function directory(serial: number): Directory {
  return { type: 'directory', serial, mode: 0o755, uid: 0, gid: 0, modifiedAt: 0, names: null };
}

function attributesOf({ mode, uid, gid, modifiedAt }: TarEntry): Attributes {
  return { mode, uid, gid, modifiedAt };
}

function misfit(why: string): ImportFailure {
  return new ImportFailure('image_refused', `the layers do not fit on each other: ${why}`);
}
