import { spawn } from 'node:child_process';
import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import type { Contents } from './contents.ts';
import { ImportFailure } from './failure.ts';
import { LayerReader } from './layer-reader.ts';
import type { Descriptor } from './manifest.ts';
import type { InsideLimits } from './messages.ts';
import type { ImageTree } from './tree.ts';

const CHUNK_BYTES = 256 * 1024;
/** What a zstd frame may make the reader hold. */
const ZSTD_MEMORY_MIB = 128;

/** A blob that is not what its name says: of the registry, or of the store. */
export class WrongBytes extends Error {
  readonly digest: string;

  constructor(digest: string) {
    super(`wrong bytes for ${digest}`);
    this.name = 'WrongBytes';
    this.digest = digest;
  }
}

/**
 * Applies layers to a tree, in their order. On the way each is held to its digest, its size and the limits. Nothing larger than a chunk is
 * kept in memory.
 */
export class Layers {
  readonly #tree: ImageTree;
  readonly #contents: Contents;
  readonly #limits: InsideLimits;
  readonly #diffIds: string[] = [];
  #unpackedBytes = 0;

  constructor(tree: ImageTree, contents: Contents, limits: InsideLimits) {
    this.#tree = tree;
    this.#contents = contents;
    this.#limits = limits;
  }

  /** Of the layers so far, each when it is not compressed. */
  get diffIds(): readonly string[] {
    return this.#diffIds;
  }

  /**
   * @param path the layer as the registry has it
   * @throws ImportFailure of every code, WrongBytes
   */
  async add(path: string, layer: Descriptor, progress: (bytes: number) => void): Promise<void> {
    const read = { hash: createHash('sha256'), bytes: 0 };
    try {
      this.#diffIds.push(await this.#apply(path, layer, read, progress));
    } catch (error) {
      // Bytes that are not the layer's say nothing of the image, whatever they made of themselves.
      await verify(path, layer);
      throw error;
    }
    if (!isWhole(read, layer)) throw new WrongBytes(layer.digest);
  }

  /** @returns the digest of what the layer unpacks to */
  async #apply(path: string, layer: Descriptor, read: Read, progress: (bytes: number) => void): Promise<string> {
    const hash = createHash('sha256');
    const most = this.#limits.ratioFreeBytes + layer.bytes * this.#limits.ratio;
    let layerBytes = 0;
    let isKept = false;
    this.#tree.beginLayer();
    const reader = new LayerReader(
      (entry) => {
        isKept = false;
        this.#tree.apply(entry, () => {
          isKept = true;
          return this.#contents.begin(entry.bytes);
        });
      },
      (bytes) => {
        if (isKept) this.#contents.push(bytes);
      },
    );
    await using unpacked = await decompress(path, layer, read);
    for await (const chunk of unpacked.stream) {
      hash.update(chunk);
      layerBytes += chunk.length;
      this.#unpackedBytes += chunk.length;
      this.#check(layerBytes, layer, most);
      progress(read.bytes);
      reader.push(chunk);
      await this.#contents.flush();
    }
    reader.end();
    await unpacked.read;
    return `sha256:${hash.digest('hex')}`;
  }

  #check(layerBytes: number, layer: Descriptor, most: number): void {
    if (this.#unpackedBytes > this.#limits.unpackedBytes) {
      throw new ImportFailure('image_too_large', `the image unpacks to more than ${this.#limits.unpackedBytes} bytes`);
    }
    if (layerBytes > most) {
      throw new ImportFailure(
        'image_too_large',
        `the layer ${layer.digest} of ${layer.bytes} bytes unpacks to more than ${most}; the ratio's limit is ${this.#limits.ratio}`,
      );
    }
  }
}

/** What was read of a layer as the registry has it. */
interface Read {
  readonly hash: Hash;
  bytes: number;
}

function isWhole({ hash, bytes }: Read, layer: Descriptor): boolean {
  return bytes === layer.bytes && `sha256:${hash.digest('hex')}` === layer.digest;
}

async function verify(path: string, layer: Descriptor): Promise<void> {
  const read = { hash: createHash('sha256'), bytes: 0 };
  for await (const _ of hashed(path, layer, read));
  if (!isWhole(read, layer)) throw new WrongBytes(layer.digest);
}

/** The bytes of a file, which go into `read` on their way. */
async function* hashed(path: string, layer: Descriptor, read: Read): AsyncGenerator<Buffer> {
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES }) as AsyncIterable<Buffer>) {
    read.hash.update(chunk);
    read.bytes += chunk.length;
    if (read.bytes > layer.bytes) throw new WrongBytes(layer.digest);
    yield chunk;
  }
}

/** By the first bytes, whatever the manifest calls the layer. */
async function compressionOf(path: string): Promise<'gzip' | 'zstd' | 'none'> {
  await using file = await open(path, 'r');
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
  const magic = buffer.subarray(0, bytesRead).toString('hex');
  if (magic.startsWith('1f8b')) return 'gzip';
  // A skippable frame may come first.
  return magic === '28b52ffd' || /^5.2a4d18$/.test(magic) ? 'zstd' : 'none';
}

interface Unpacked extends AsyncDisposable {
  readonly stream: AsyncIterable<Buffer>;
  /** Resolves when the layer was read to its end, also where what it unpacks to ended before. */
  readonly read: Promise<void>;
}

async function decompress(path: string, layer: Descriptor, read: Read): Promise<Unpacked> {
  const compression = await compressionOf(path);
  const source = hashed(path, layer, read);
  if (compression === 'none') {
    return {
      stream: source,
      read: Promise.resolve(),
      [Symbol.asyncDispose]: async () => void (await source.return(null)),
    };
  }
  const bad = () => new ImportFailure('image_refused', `a layer is not a whole ${compression} file`);
  if (compression === 'gzip') {
    const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
    const fed = pipeline(source, gunzip);
    // The reader of the last stream sees the failures of all.
    fed.catch(() => undefined);
    return { stream: rethrow(gunzip, bad), read: fed, [Symbol.asyncDispose]: async () => void gunzip.destroy() };
  }
  // Node's own reader stops after the first frame; layers may have many.
  const zstd = spawn('zstd', ['--decompress', '--stdout', '--quiet', `--memory=${ZSTD_MEMORY_MIB}MB`], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const exited = once(zstd, 'close') as Promise<[number | null]>;
  const fed = pipeline(source, zstd.stdin);
  fed.catch(() => undefined);
  const stream = (async function* () {
    yield* rethrow(zstd.stdout, bad);
    if ((await exited)[0] !== 0) throw bad();
  })();
  return {
    stream,
    read: fed,
    [Symbol.asyncDispose]: async () => {
      zstd.kill('SIGKILL');
      zstd.stdout.destroy();
      await exited;
    },
  };
}

async function* rethrow(stream: Readable, error: () => Error): AsyncGenerator<Buffer> {
  const failed = Symbol('failed');
  const chunks = (stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  for (;;) {
    const next = await chunks.next().catch(() => failed);
    if (typeof next === 'symbol') throw error();
    if (next.done === true) return;
    yield next.value;
  }
}
