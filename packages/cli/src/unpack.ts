import { constants } from 'node:fs';
import { lstat, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { CocoreError, MAX_ARTIFACT_ENTRIES } from '@cocore/protocol';
import { extract } from 'tar-stream';

/** One file or directory of an archive. */
export interface Entry {
  readonly path: string;
  readonly kind: 'file' | 'directory';
  readonly bytes: number;
  readonly executable: boolean;
  /** A file's; it must be read to its end. */
  readonly content: Readable;
}

/** @throws CocoreError `archive_refused` */
const refuse = (what: string): never => {
  throw new CocoreError('archive_refused', what);
};

/**
 * The entries of an archive that a hostile guest has made, in order, each with a path that stays below where it is unpacked.
 *
 * @throws CocoreError `archive_refused` for anything that an honest sandbox does not send
 */
export async function* entriesOf(archive: ReadableStream<Uint8Array>): AsyncGenerator<Entry> {
  const source = Readable.fromWeb(archive as Parameters<typeof Readable.fromWeb>[0]);
  const parser = extract();
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  let count = 0;
  try {
    for await (const entry of parser) {
      const { name, type, size, mode } = entry.header;
      count += 1;
      if (count > MAX_ARTIFACT_ENTRIES) refuse(`it has more than ${MAX_ARTIFACT_ENTRIES} entries`);
      // The parser would wait for ever for a length that is no number.
      if (!Number.isSafeInteger(size ?? 0)) refuse(`${JSON.stringify(name)} has no length`);
      if (type !== 'file' && type !== 'directory') refuse(`${JSON.stringify(name)} is a ${type}`);
      yield {
        path: safePath(name),
        kind: type === 'directory' ? 'directory' : 'file',
        bytes: size ?? 0,
        executable: ((mode ?? 0) & 0o100) !== 0,
        content: Readable.from(refusing(entry)),
      };
    }
  } catch (error) {
    throw refusal(error);
  } finally {
    source.destroy();
  }
}

function refusal(error: unknown): CocoreError {
  if (error instanceof CocoreError) return error;
  return new CocoreError('archive_refused', error instanceof Error ? error.message : String(error), { cause: error });
}

async function* refusing(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* bytes;
  } catch (error) {
    throw refusal(error);
  }
}

function safePath(name: string): string {
  const path = name.replace(/\/$/, '');
  const parts = path.split('/');
  const isSafe = !path.includes('\0') && parts.every((part) => part !== '' && part !== '.' && part !== '..');
  return isSafe ? path : refuse(`${JSON.stringify(name)} is not a path below the archive`);
}

/**
 * Unpacks below `directory`, which is made if need be. It follows no link that lies there, writes over nothing unless it is told to, and takes only
 * the executable bit of a file's mode.
 *
 * @throws CocoreError `archive_refused`, `file_exists`
 */
export async function unpack(archive: ReadableStream<Uint8Array>, directory: string, force: boolean): Promise<number> {
  await mkdir(directory, { recursive: true });
  let files = 0;
  for await (const entry of entriesOf(archive)) {
    const parents = entry.path.split('/').slice(0, -1);
    await makeDirectories(directory, entry.kind === 'directory' ? entry.path.split('/') : parents);
    if (entry.kind === 'file') {
      await writeFile(join(directory, entry.path), entry, force);
      files += 1;
    }
    entry.content.resume();
  }
  return files;
}

/** Each part is made, or is a directory itself and no link to one. */
async function makeDirectories(root: string, parts: readonly string[]): Promise<void> {
  let path = root;
  for (const part of parts) {
    path = join(path, part);
    const status = await lstat(path).catch(() => null);
    if (status === null) await mkdir(path);
    else if (!status.isDirectory()) throw new CocoreError('file_exists', `${path} is there and is not a directory`);
  }
}

async function writeFile(path: string, entry: Entry, force: boolean): Promise<void> {
  if (force) await rm(path, { force: true });
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const mode = entry.executable ? 0o777 : 0o666;
  await using file = await open(path, flags, mode).catch((cause: unknown) => {
    throw new CocoreError('file_exists', `${path} cannot be made; --force writes over files`, { cause });
  });
  for await (const piece of entry.content) await file.writeFile(piece as Uint8Array);
}
