/** Blocks of a tar archive. Names are Latin-1 strings: one character for each byte. */

export const BLOCK_BYTES = 512;

export type EntryType = 'file' | 'hardlink' | 'symlink' | 'directory' | 'fifo';

export interface TarEntry {
  readonly type: EntryType;
  /** Relative, without `.`, `..` and doubled slashes; empty for the root. */
  readonly path: string;
  readonly linkTarget: string;
  /** Twelve bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly bytes: number;
  /** Whole seconds. */
  readonly modifiedAt: number;
}

/** `bytes` rounded up to whole blocks. */
export function padded(bytes: number): number {
  return Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;
}

/** A header as it stands, its numbers and strings not yet judged. */
export interface RawHeader {
  readonly flag: string;
  readonly name: string;
  readonly linkName: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly bytes: number;
  readonly modifiedAt: number;
}

function string(header: Buffer, from: number, length: number): string {
  const end = header.indexOf(0, from);
  return header.toString('latin1', from, end === -1 || end > from + length ? from + length : end);
}

function number(header: Buffer, from: number, length: number): number {
  const first = header[from]!;
  if (first >= 0x80) {
    // Base 256; a number that JavaScript cannot hold is over every limit.
    if (first & 0x40) return -1;
    let value = first & 0x3f;
    for (let at = from + 1; at < from + length; at += 1) value = value * 256 + header[at]!;
    return value;
  }
  const text = header
    .toString('latin1', from, from + length)
    .replaceAll('\0', ' ')
    .trim();
  if (text === '') return 0;
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
}

/** `null` where the block is not a header: its sum is wrong. */
export function decodeHeader(header: Buffer): RawHeader | null {
  let unsigned = 0;
  let signed = 0;
  for (let at = 0; at < BLOCK_BYTES; at += 1) {
    const byte = at >= 148 && at < 156 ? 0x20 : header[at]!;
    unsigned += byte;
    signed += byte < 0x80 ? byte : byte - 256;
  }
  const sum = number(header, 148, 8);
  if (sum !== unsigned && sum !== signed) return null;
  // The two formats share the magic's first five bytes; the older one has other fields where the prefix is.
  const prefix = header.toString('latin1', 257, 263) === 'ustar\0' ? string(header, 345, 155) : '';
  const name = string(header, 0, 100);
  return {
    flag: String.fromCharCode(header[156]!),
    name: prefix === '' ? name : `${prefix}/${name}`,
    linkName: string(header, 157, 100),
    mode: number(header, 100, 8),
    uid: number(header, 108, 8),
    gid: number(header, 116, 8),
    bytes: number(header, 124, 12),
    modifiedAt: number(header, 136, 12),
  };
}

/** @returns null where the records are not well formed */
export function decodePax(body: Buffer): Map<string, string> | null {
  const records = new Map<string, string>();
  let at = 0;
  while (at < body.length) {
    const space = body.indexOf(0x20, at);
    if (space === -1 || space - at > 10) return null;
    const text = body.toString('latin1', at, space);
    const length = /^[0-9]+$/.test(text) ? Number(text) : 0;
    const end = at + length;
    const equals = body.indexOf(0x3d, space);
    if (length === 0 || end > body.length || body[end - 1] !== 0x0a || equals === -1 || equals >= end) return null;
    records.set(body.toString('latin1', space + 1, equals), body.toString('latin1', equals + 1, end - 1));
    at = end;
  }
  return records;
}
