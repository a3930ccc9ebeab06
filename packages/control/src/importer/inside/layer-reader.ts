import { ImportFailure, shown } from './failure.ts';
import {
  BLOCK_BYTES,
  decodeHeader,
  decodePax,
  type EntryType,
  padded,
  type RawHeader,
  type TarEntry,
} from './tar-entry.ts';

const MAX_META_BYTES = 1024 * 1024;
const MAX_PATH_BYTES = 4095;
const MAX_NAME_BYTES = 255;
/** The ids of a sandbox. */
const MAX_ID = 65_535;
const MAX_TIME = 2 ** 33 - 1;

const TYPES: Record<string, EntryType> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '5': 'directory',
  '6': 'fifo',
};

/**
 * Reads a layer's archive, entry by entry, as the bytes come. Left out are device nodes, extended attributes, names of
 * users, and fractions of seconds; what is not understood, sparse files among it, refuses the image.
 *
 * Three states: at a header (`#wanted` bytes of a block or of a record are collected), in a file's data, in padding.
 */
export class LayerReader {
  readonly #onEntry: (entry: TarEntry) => void;
  readonly #onData: (bytes: Buffer) => void;
  /** Collected bytes of a header or a record, when they came in pieces. */
  #held = Buffer.alloc(0);
  /** What the collected bytes are; `null` in data. */
  #meta: { readonly flag: string; readonly bytes: number } | null = null;
  #dataLeft = 0;
  #skipData = false;
  #paddingLeft = 0;
  #ended = false;
  #longName: string | null = null;
  #longLink: string | null = null;
  #pax: Map<string, string> | null = null;

  /** @param onData gets the bytes of the last entry, in pieces */
  constructor(onEntry: (entry: TarEntry) => void, onData: (bytes: Buffer) => void) {
    this.#onEntry = onEntry;
    this.#onData = onData;
  }

  /** @throws ImportFailure `image_refused`, `image_too_large` */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.#ended) {
      if (this.#dataLeft > 0) {
        const taken = Math.min(this.#dataLeft, chunk.length - at);
        if (!this.#skipData) this.#onData(chunk.subarray(at, at + taken));
        this.#dataLeft -= taken;
        at += taken;
      } else if (this.#paddingLeft > 0) {
        const taken = Math.min(this.#paddingLeft, chunk.length - at);
        this.#paddingLeft -= taken;
        at += taken;
      } else {
        const wanted = this.#meta === null ? BLOCK_BYTES : padded(this.#meta.bytes);
        const taken = Math.min(wanted - this.#held.length, chunk.length - at);
        const piece = chunk.subarray(at, at + taken);
        const whole = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece]);
        at += taken;
        if (whole.length < wanted) {
          this.#held = Buffer.from(whole);
        } else {
          this.#held = Buffer.alloc(0);
          if (this.#meta === null) this.#header(whole);
          else this.#record(this.#meta.flag, whole.subarray(0, this.#meta.bytes));
        }
      }
    }
  }

  /** @throws ImportFailure `image_refused` where the archive ends inside an entry */
  end(): void {
    // Archives of some tools end with the last byte of the last file.
    if (this.#dataLeft > 0 || this.#meta !== null || this.#held.length > 0) {
      throw new ImportFailure('image_refused', 'a layer ends in the middle of a file');
    }
  }

  #header(block: Buffer): void {
    if (block.every((byte) => byte === 0)) {
      this.#ended = true;
      return;
    }
    const header = decodeHeader(block);
    if (header === null) throw new ImportFailure('image_refused', 'a layer is not a tar archive');
    if ('xgLK'.includes(header.flag)) {
      if (!(header.bytes > 0 && header.bytes <= MAX_META_BYTES)) {
        throw new ImportFailure('image_refused', 'a layer has a record of a size that makes no sense');
      }
      this.#meta = { flag: header.flag, bytes: header.bytes };
      return;
    }
    this.#entry(header);
    this.#longName = null;
    this.#longLink = null;
    this.#pax = null;
  }

  #record(flag: string, body: Buffer): void {
    this.#meta = null;
    const text = () => {
      const end = body.indexOf(0);
      return body.toString('latin1', 0, end === -1 ? body.length : end);
    };
    if (flag === 'L') this.#longName = text();
    else if (flag === 'K') this.#longLink = text();
    else if (flag === 'x') {
      this.#pax = decodePax(body);
      if (this.#pax === null) throw new ImportFailure('image_refused', 'a layer has a record that is not well formed');
    }
  }

  #entry(header: RawHeader): void {
    const pax = (key: string) => this.#pax?.get(key) || null;
    const name = pax('path') ?? this.#longName ?? header.name;
    const target = pax('linkpath') ?? this.#longLink ?? header.linkName;
    const refuse = (why: string) => new ImportFailure('image_refused', `the file ${shown(name)} in a layer ${why}`);
    const decimal = (key: string, otherwise: number) => {
      const text = pax(key);
      if (text === null) return otherwise;
      return /^-?[0-9]+(?:\.[0-9]*)?$/.test(text) ? Math.floor(Number(text)) : Number.NaN;
    };
    if (header.flag === 'S' || [...(this.#pax?.keys() ?? [])].some((key) => key.startsWith('GNU.sparse.'))) {
      throw refuse('is stored as a sparse file');
    }
    const path = clean(name);
    let type = TYPES[header.flag] ?? null;
    if (type === 'file' && name.endsWith('/')) type = 'directory';
    const device = header.flag === '3' || header.flag === '4';
    if (type === null && !device) throw refuse('is of an unknown type');
    const bytes = type === 'file' ? decimal('size', header.bytes) : 0;
    if (!(bytes >= 0 && bytes <= Number.MAX_SAFE_INTEGER)) throw refuse('has a size that makes no sense');

    const parts = path === '' ? [] : path.split('/');
    // Devices are never made; `.wh..wh.` is the bookkeeping of a file system that no sandbox has, but for opaque directories.
    const bookkeeping = parts.some((part) => part.startsWith('.wh..wh.') && part !== '.wh..wh..opq');
    this.#dataLeft = bytes;
    this.#paddingLeft = padded(bytes) - bytes;
    this.#skipData = device || bookkeeping;
    if (type === null || this.#skipData) return;

    if (name.includes('\0') || target.includes('\0')) throw refuse('has a name with a NUL');
    if (path.length > MAX_PATH_BYTES || parts.some((part) => part.length > MAX_NAME_BYTES)) {
      throw refuse('has a name that is too long');
    }
    if (target.length > MAX_PATH_BYTES) throw refuse('links to a name that is too long');
    if (path === '' && type !== 'directory') throw refuse('takes the place of the root directory');
    if (type === 'symlink' && target === '') throw refuse('links to nothing');
    const uid = decimal('uid', header.uid);
    const gid = decimal('gid', header.gid);
    for (const id of [uid, gid]) {
      if (!(id >= 0 && id <= MAX_ID)) throw refuse(`belongs to the id ${id}; ids go from 0 to ${MAX_ID}`);
    }
    const modifiedAt = decimal('mtime', header.modifiedAt);
    if (Number.isNaN(modifiedAt) || Number.isNaN(header.mode)) throw refuse('has a header that makes no sense');
    this.#onEntry({
      type,
      path,
      linkTarget: type === 'hardlink' ? clean(target) : type === 'symlink' ? target : '',
      mode: header.mode & 0o7777,
      uid,
      gid,
      bytes,
      modifiedAt: Math.min(Math.max(modifiedAt, 0), MAX_TIME),
    });
  }
}

/** A path inside the root: `..` does not lead out of it. */
function clean(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}
