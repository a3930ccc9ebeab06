import { open } from 'node:fs/promises';

/** Standard input: bytes that can be read from any offset. */
export interface StdinSource extends AsyncDisposable {
  readonly length: number;
  /** Exactly `count` bytes from `offset`; both are within `length`. */
  read(offset: number, count: number): Promise<Uint8Array>;
}

export function stdinOfBytes(bytes: Uint8Array): StdinSource {
  return {
    length: bytes.length,
    read: async (offset, count) => bytes.subarray(offset, offset + count),
    [Symbol.asyncDispose]: async () => {},
  };
}

export async function stdinOfFile(path: string): Promise<StdinSource> {
  const file = await open(path);
  const { size } = await file.stat();
  return {
    length: size,
    read: async (offset, count) => {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(count), 0, count, offset);
      if (bytesRead !== count) throw new Error('a file of standard input became shorter');
      return buffer;
    },
    [Symbol.asyncDispose]: () => file.close(),
  };
}
