import { constants } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { AttemptStream } from '@cocore/protocol';
import { INLINE_OUTPUT_BYTES } from '../store/store.ts';

const READ_BYTES = 64 * 1024;

/** The file of what a stream holds beyond its first bytes. */
export function segmentPath(directory: string, attemptId: string, stream: AttemptStream): string {
  // The last characters of an id are its most random ones.
  return join(directory, attemptId.slice(-2), `${attemptId}.${stream}`);
}

/** The bytes of a stream from `offset`, which is in its file, up to (not including) `end`, in pieces of at most 64 KiB. It gives less when the file is shorter. */
export async function* readSegment(path: string, offset: number, end: number): AsyncGenerator<Uint8Array> {
  await using file = await open(path, 'r');
  for (let at = offset; at < end;) {
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - at));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at - INLINE_OUTPUT_BYTES);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** To write to, durably; made where it is not there. */
export async function openSegment(path: string): Promise<FileHandle> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true });
  // Neither truncated nor appended to: bytes beyond the committed length are written over.
  const file = await open(path, 'a').then(async (created) => {
    await created.close();
    return open(path, constants.O_RDWR | constants.O_DSYNC);
  });
  try {
    for (const parent of [directory, dirname(directory)]) {
      await using handle = await open(parent, 'r');
      await handle.sync();
    }
  } catch (error) {
    await file.close();
    throw error;
  }
  return file;
}

/** Writes bytes of a stream that begin at `offset`, which is in its file. They are durable when it resolves: one call writes and flushes, which saves a way to another thread and back. */
export async function writeSegment(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const { bytesWritten } = await file.write(
      bytes,
      written,
      bytes.length - written,
      offset - INLINE_OUTPUT_BYTES + written,
    );
    written += bytesWritten;
  }
}
