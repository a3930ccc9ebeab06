import type { BlobRef } from '@cocore/protocol';
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** Gives a blob's bytes from `from` on, unless the signal aborts, which has not when it is asked. What it yields is not believed. */
export type BlobSource = (digest: string, signal: AbortSignal, from: number) => Promise<Readable>;

/** The one who would give the blob cannot be asked now, which says nothing about the blob. */
export class SourceAway extends Error {}

/** How often in a row a blob is asked for without getting on. */
const MAX_TRIES = 4;
/** The pause grows to this many times the first one, while nobody can be asked. */
const MAX_PAUSES = 4;
/** What a broken-off try must have brought to count as getting on. */
const GETTING_ON_BYTES = 1024 * 1024;

/** What came is not the blob, so that nothing of it is of use. */
class WrongBytes extends Error {}

/**
 * Writes a blob to a new file, synced, which has the blob's bytes once the promise resolves. A download that breaks off goes on
 * where it was. A source that is away is waited for, as long as the signal lets it.
 *
 * @throws Error what was wrong at the last try, or the signal's reason
 */
export async function download(
  ref: BlobRef,
  path: string,
  source: BlobSource,
  retryDelayMs: number,
  signal: AbortSignal,
): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  const received = { bytes: 0, hash: createHash('sha256') };
  let pauses = 1;
  for (let fruitless = 0; ;) {
    const from = received.bytes;
    signal.throwIfAborted();
    try {
      await receive(ref, await source(ref.digest, signal, from), file, received, signal);
      await file.sync();
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof SourceAway) {
        await sleep(retryDelayMs * pauses, undefined, { signal });
        pauses = Math.min(pauses * 2, MAX_PAUSES);
        continue;
      }
      pauses = 1;
      const isWrong = error instanceof WrongBytes;
      fruitless = !isWrong && received.bytes - from >= GETTING_ON_BYTES ? 0 : fruitless + 1;
      if (fruitless === MAX_TRIES) throw error;
      if (isWrong) {
        await file.truncate(0);
        received.bytes = 0;
        received.hash = createHash('sha256');
      }
      await sleep(retryDelayMs, undefined, { signal });
    }
  }
}

interface Received {
  bytes: number;
  hash: ReturnType<typeof createHash>;
}

async function receive(
  ref: BlobRef,
  body: Readable,
  file: FileHandle,
  received: Received,
  signal: AbortSignal,
): Promise<void> {
  const stop = () => body.destroy(signal.reason as Error);
  signal.addEventListener('abort', stop);
  try {
    for await (const piece of body) {
      const chunk = piece as Buffer;
      if (received.bytes + chunk.length > ref.bytes) throw new WrongBytes(`it is longer than ${ref.bytes} bytes`);
      await writeAt(file, chunk, received.bytes);
      received.hash.update(chunk);
      received.bytes += chunk.length;
    }
  } finally {
    signal.removeEventListener('abort', stop);
    body.destroy();
  }
  if (received.bytes !== ref.bytes) throw new Error(`it has ${received.bytes} bytes instead of ${ref.bytes}`);
  if (`sha256:${received.hash.digest('hex')}` !== ref.digest) throw new WrongBytes('its digest is another');
}

async function writeAt(file: FileHandle, chunk: Buffer, position: number): Promise<void> {
  for (let done = 0; done < chunk.length;) {
    const { bytesWritten } = await file.write(chunk, done, chunk.length - done, position + done);
    done += bytesWritten;
  }
}
