const BLOCK_BYTES = 512;

export interface RawEntry {
  readonly name: string;
  /** The type flag of the header; a file if not given. */
  readonly flag?: string;
  readonly content?: string | Uint8Array;
  readonly mode?: number;
  readonly link?: string;
  /** What the header says of the content's length, where that is not the truth. */
  readonly size?: string;
  readonly uid?: number;
  readonly mtime?: number;
}

/** One entry as it is told, whether or not it makes sense. */
function entry({
  name,
  flag = '0',
  content = '',
  mode = 0o644,
  link = '',
  size,
  uid = 0,
  mtime = 0,
}: RawEntry): Buffer {
  const body = Buffer.from(content as string);
  const header = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, width: number) => `${value.toString(8).padStart(width - 1, '0')}\0`;
  header.write(name, 0, 100);
  header.write(octal(mode, 8), 100);
  header.write(octal(uid, 8), 108);
  header.write(octal(uid, 8), 116);
  header.write(size ?? octal(body.length, 12), 124, 12, 'latin1');
  header.write(octal(mtime, 12), 136);
  header.write('        ', 148);
  header.write(flag, 156);
  header.write(link, 157, 100);
  header.write('ustar\x0000', 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, body, Buffer.alloc((BLOCK_BYTES - (body.length % BLOCK_BYTES)) % BLOCK_BYTES)]);
}

/** An extended header: what it says holds for the next entry. */
export function pax(records: Record<string, string>, flag = 'x'): RawEntry {
  const content = Object.entries(records)
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      const length = Buffer.byteLength(rest);
      const whole = [1, 2, 3, 4, 5].map((digits) => digits + length).find((all, at) => String(all).length === at + 1)!;
      return `${whole}${rest}`;
    })
    .join('');
  return { name: 'pax', flag, content };
}

/** A whole archive. */
export function tar(entries: readonly RawEntry[]): Buffer {
  return Buffer.concat([...entries.map(entry), Buffer.alloc(2 * BLOCK_BYTES)]);
}
