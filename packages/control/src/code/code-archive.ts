import { CocoreError } from '@cocore/protocol';
import { BLOCK_BYTES, decodeHeader, decodePax, padded, type RawHeader } from '../importer/inside/tar-entry.ts';
import { type CodeLimits, type CodeNode, CodeTree, shown, SOURCE_LIMITS } from './code-tree.ts';
import type { Content } from './content.ts';

/** A path and a link's target with room for both, in an extended header. */
const MAX_META_BYTES = 16 * 1024;
/** Read at a time: headers of small files lie close to each other. */
const WINDOW_BYTES = 64 * 1024;

/**
 * Reads the headers of a tar archive of code; what its files hold stays where it is. What is not understood is refused, not skipped.
 *
 * @throws CocoreError `code_invalid`
 */
export async function readArchive(archive: Content, limits: CodeLimits = SOURCE_LIMITS): Promise<CodeTree> {
  const reader = new Reader(archive);
  const tree = new CodeTree(limits);
  for (let entry = await nextEntry(reader); entry !== null; entry = await nextEntry(reader)) {
    tree.add(entry.name, entry.node);
  }
  tree.checkLinks();
  return tree;
}

interface Entry {
  readonly name: string;
  readonly node: CodeNode;
}

/** Null at the archive's end. */
async function nextEntry(reader: Reader): Promise<Entry | null> {
  let name: string | null = null;
  let target: string | null = null;
  let size: number | null = null;
  for (;;) {
    const block = await reader.take(BLOCK_BYTES);
    if (block.every((byte) => byte === 0)) return null;
    const header = decodeHeader(block);
    if (header === null) throw new CocoreError('code_invalid', 'the blob is not a tar archive');
    switch (header.flag) {
      case 'g':
      case 'x': {
        const records = decodePax(await meta(reader, header));
        const keys = [...(records?.keys() ?? [])];
        const changesAll = header.flag === 'g' && keys.some((key) => ['path', 'linkpath', 'size'].includes(key));
        if (records === null || changesAll || keys.some((key) => key.startsWith('GNU.sparse.'))) {
          throw new CocoreError('code_invalid', 'the archive has an extended header that cannot be taken');
        }
        if (header.flag === 'g') break;
        name = records.get('path') ?? name;
        target = records.get('linkpath') ?? target;
        size = records.has('size') ? decimal(records.get('size')!) : size;
        break;
      }
      case 'L':
        name = untilNul(await meta(reader, header));
        break;
      case 'K':
        target = untilNul(await meta(reader, header));
        break;
      default:
        return entryOf(
          text(name ?? header.name),
          text(target ?? header.linkName),
          size ?? header.bytes,
          header,
          reader,
        );
    }
  }
}

async function meta(reader: Reader, header: RawHeader): Promise<Buffer> {
  if (!(header.bytes > 0 && header.bytes <= MAX_META_BYTES)) {
    throw new CocoreError('code_invalid', `the archive has a name or a header of more than ${MAX_META_BYTES} bytes`);
  }
  return (await reader.take(padded(header.bytes))).subarray(0, header.bytes);
}

function entryOf(name: string, target: string, bytes: number, header: RawHeader, reader: Reader): Entry {
  const refuse = (what: string) => new CocoreError('code_invalid', `${shown(name)} is ${what}`);
  switch (header.flag) {
    case '0':
    case '\0':
    case '7': {
      if (!Number.isSafeInteger(bytes) || bytes < 0) throw refuse('of a size that makes no sense');
      if (name.endsWith('/')) throw refuse('a file with the name of a directory');
      const content = reader.part(bytes);
      reader.part(padded(bytes) - bytes);
      return { name, node: { kind: 'file', content, isExecutable: (header.mode & 0o111) !== 0 } };
    }
    case '5':
      if (bytes !== 0) throw refuse('a directory with bytes');
      return { name, node: { kind: 'directory' } };
    case '2':
      if (bytes !== 0) throw refuse('a link with bytes');
      return { name, node: { kind: 'link', target } };
    case '1':
      throw refuse('a hard link; pack it as a file');
    case '3':
    case '4':
      throw refuse('a device');
    case '6':
      throw refuse('a named pipe');
    default:
      throw refuse('of a kind that is not known');
  }
}

const decimal = (digits: string): number => (/^\d{1,15}$/.test(digits) ? Number(digits) : Number.NaN);
const untilNul = (bytes: Buffer): string => bytes.toString('latin1').split('\0', 1)[0]!;

/** Names are bytes; code has those of UTF-8. */
function text(latin1: string): string {
  try {
    const name = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(latin1, 'latin1'));
    if (!name.includes('\0')) return name;
  } catch {
    // Said below.
  }
  throw new CocoreError('code_invalid', 'the archive has a name that is not UTF-8, or has NUL in it');
}

class Reader {
  readonly #archive: Content;
  #at = 0;
  #window = Buffer.alloc(0);
  #windowAt = 0;

  constructor(archive: Content) {
    this.#archive = archive;
  }

  /** The next bytes, as they are. */
  async take(bytes: number): Promise<Buffer> {
    const at = this.#advance(bytes);
    if (at < this.#windowAt || at + bytes > this.#windowAt + this.#window.length) {
      const pieces: Uint8Array[] = [];
      for await (const piece of this.#rest(at, Math.max(bytes, WINDOW_BYTES)).pieces(WINDOW_BYTES)) pieces.push(piece);
      this.#window = Buffer.concat(pieces);
      this.#windowAt = at;
    }
    return this.#window.subarray(at - this.#windowAt, at - this.#windowAt + bytes);
  }

  /** The next bytes, where they lie. */
  part(bytes: number): Content {
    return this.#archive.slice(this.#advance(bytes), bytes);
  }

  #advance(bytes: number): number {
    const at = this.#at;
    if (bytes > this.#archive.bytes - at) throw new CocoreError('code_invalid', 'the archive ends in the middle');
    this.#at += bytes;
    return at;
  }

  #rest(at: number, mostBytes: number): Content {
    return this.#archive.slice(at, Math.min(mostBytes, this.#archive.bytes - at));
  }
}
