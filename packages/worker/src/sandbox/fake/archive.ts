const BLOCK_BYTES = 512;

/** Files as the agent archives them (`guest/agent/archive.h`), for names of at most 100 ASCII characters; nothing for none. */
export function archiveOf(files: ReadonlyMap<string, Uint8Array>): Buffer {
  if (files.size === 0) return Buffer.alloc(0);
  const names = [...files.keys()].sort();
  const entries = names.flatMap((name) => {
    const data = files.get(name)!;
    return [header(name, data.length), data, Buffer.alloc(-data.length & (BLOCK_BYTES - 1))];
  });
  return Buffer.concat([...entries, Buffer.alloc(2 * BLOCK_BYTES)]);
}

function header(name: string, bytes: number): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, '0');
  block.write(name, 0, 'latin1');
  block.write(
    `${octal(0o644, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0${octal(bytes, 11)}\0${octal(0, 11)}\0        0`,
    100,
    'latin1',
  );
  block.write('ustar\u000000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)}\0 `, 148, 'latin1');
  return block;
}
