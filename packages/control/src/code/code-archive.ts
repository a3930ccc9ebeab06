import { CocoreError } from '@cocore/protocol';
import { BLOCK_BYTES, decodeHeader, decodePax, padded, type RawHeader } from '../importer/inside/tar-entry.ts';
import { type CodeNode, CodeTree, shown } from './code-tree.ts';

/** A path and a link's target with room for both, in an extended header. */
const MAX_META_BYTES = 16 * 1024;

/**
 * Reads a tar archive of code. What is not understood is refused, not skipped.
 *
 * @throws CocoreError `code_invalid`
 */
export function readArchive(archive: Buffer): CodeTree {
  const reader = new Reader(archive);
  const tree = new CodeTree();
  for (let entry = nextEntry(reader); entry !== null; entry = nextEntry(reader)) tree.add(entry.name, entry.node);
  tree.checkLinks();
  return tree;
}

interface Entry {
  readonly name: string;
  readonly node: CodeNode;
}

/** Null at the archive's end. */
function nextEntry(reader: Reader): Entry | null {
  let name: string | null = null;
  let target: string | null = null;
  let size: number | null = null;
  for (;;) {
    const block = reader.take(BLOCK_BYTES);
    if (block.every((byte) => byte === 0)) return null;
    const header = decodeHeader(block);
    if (header === null) throw new CocoreError('code_invalid', 'the blob is not a tar archive');
    switch (header.flag) {
      case 'g':
      case 'x': {
        const records = decodePax(meta(reader, header));
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
        name = untilNul(meta(reader, header));
        break;
      case 'K':
        target = untilNul(meta(reader, header));
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

function meta(reader: Reader, header: RawHeader): Buffer {
  if (!(header.bytes > 0 && header.bytes <= MAX_META_BYTES)) {
    throw new CocoreError('code_invalid', `the archive has a name or a header of more than ${MAX_META_BYTES} bytes`);
  }
  return reader.take(padded(header.bytes)).subarray(0, header.bytes);
}

function entryOf(name: string, target: string, bytes: number, header: RawHeader, reader: Reader): Entry {
  const refuse = (what: string) => new CocoreError('code_invalid', `${shown(name)} is ${what}`);
  switch (header.flag) {
    case '0':
    case '\0':
    case '7': {
      if (!Number.isSafeInteger(bytes) || bytes < 0) throw refuse('of a size that makes no sense');
      if (name.endsWith('/')) throw refuse('a file with the name of a directory');
      const content = reader.take(bytes);
      reader.take(padded(bytes) - bytes);
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
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  take(bytes: number): Buffer {
    if (bytes > this.#bytes.length - this.#at) throw new CocoreError('code_invalid', 'the archive ends in the middle');
    this.#at += bytes;
    return this.#bytes.subarray(this.#at - bytes, this.#at);
  }
}
