import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, type ReadStream } from 'node:fs';
import { mkdir, open, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline, type Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { ImportFailure } from './failure.ts';
import { LayerRewriter } from './layer-rewriter.ts';
import { type Descriptor, sha256 } from './manifest.ts';
import type { InsideLimits } from './messages.ts';
import type { TreeCount } from './tree-count.ts';

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
 * Layers in a form that the unpacker takes: plain tar, written anew, in an OCI layout of one image. On the way each layer is held to
 * its digest, its size and the limits. Nothing larger than a chunk is kept in memory.
 */
export class LayerSet {
  readonly #directory: string;
  readonly #limits: InsideLimits;
  readonly #count: TreeCount;
  readonly #written: { digest: string; bytes: number }[] = [];
  #unpackedBytes = 0;

  constructor(directory: string, limits: InsideLimits, count: TreeCount) {
    this.#directory = directory;
    this.#limits = limits;
    this.#count = count;
  }

  async open(): Promise<void> {
    await mkdir(join(this.#directory, 'blobs', 'sha256'), { recursive: true });
  }

  /**
   * @param path the layer as the registry has it
   * @param diffId the digest of the layer when it is not compressed; `null` where the configuration has none
   * @throws ImportFailure of every code, WrongBytes
   */
  async add(path: string, layer: Descriptor, diffId: string | null, progress: (bytes: number) => void): Promise<void> {
    await this.#verify(path, layer);
    const source = createReadStream(path, { highWaterMark: CHUNK_BYTES });
    const unpackedHash = createHash('sha256');
    const writtenHash = createHash('sha256');
    const temporary = join(this.#directory, 'layer');
    const most = this.#limits.ratioFreeBytes + layer.bytes * this.#limits.ratio;
    let layerBytes = 0;
    let writtenBytes = 0;
    {
      await using file = await open(temporary, 'w', 0o600);
      let pending: Buffer[] = [];
      const rewriter = new LayerRewriter(this.#count, (bytes) => void pending.push(bytes));
      const flush = async () => {
        // Of small files there are many small pieces; hashing and writing each by itself would take most of the time.
        const bytes = Buffer.concat(pending);
        pending = [];
        writtenHash.update(bytes);
        writtenBytes += bytes.length;
        await file.writeFile(bytes);
      };
      await using unpacked = await decompress(path, source);
      for await (const chunk of unpacked.stream) {
        unpackedHash.update(chunk);
        layerBytes += chunk.length;
        this.#unpackedBytes += chunk.length;
        this.#check(layerBytes, layer, most);
        progress(source.bytesRead);
        rewriter.push(chunk);
        await flush();
      }
      rewriter.end();
      await flush();
    }
    if (diffId !== null && `sha256:${unpackedHash.digest('hex')}` !== diffId) {
      throw new ImportFailure(
        'image_digest',
        `the layer ${layer.digest} unpacks to other bytes than the configuration says`,
      );
    }
    const digest = `sha256:${writtenHash.digest('hex')}`;
    await rename(temporary, this.#blob(digest));
    this.#written.push({ digest, bytes: writtenBytes });
  }

  /** Completes the layout; the image is named `image`. */
  async close(platform: { os: string; architecture: string }): Promise<void> {
    const put = async (document: unknown) => {
      const bytes = Buffer.from(JSON.stringify(document));
      await writeFile(this.#blob(sha256(bytes)), bytes);
      return { digest: sha256(bytes), size: bytes.length };
    };
    const config = await put({
      ...platform,
      config: {},
      rootfs: { type: 'layers', diff_ids: this.#written.map(({ digest }) => digest) },
    });
    const manifest = await put({
      schemaVersion: 2,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: this.#written.map(({ digest, bytes }) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest,
        size: bytes,
      })),
    });
    await writeFile(join(this.#directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    const entry = {
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      ...manifest,
      annotations: { 'org.opencontainers.image.ref.name': 'image' },
    };
    await writeFile(join(this.#directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  }

  async #verify(path: string, { digest, bytes }: Descriptor): Promise<void> {
    const hash = createHash('sha256');
    let found = 0;
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      found += chunk.length;
    }
    if (found !== bytes || `sha256:${hash.digest('hex')}` !== digest) throw new WrongBytes(digest);
  }

  #blob(digest: string): string {
    return join(this.#directory, 'blobs', 'sha256', digest.slice('sha256:'.length));
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

/** By the first bytes, whatever the manifest calls the layer. */
async function compressionOf(path: string): Promise<'gzip' | 'zstd' | 'none'> {
  await using file = await open(path, 'r');
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
  const magic = buffer.subarray(0, bytesRead).toString('hex');
  if (magic.startsWith('1f8b')) return 'gzip';
  // A skippable frame may come first.
  return magic === '28b52ffd' || /^5.2a4d18$/.test(magic) ? 'zstd' : 'none';
}

async function decompress(
  path: string,
  source: ReadStream,
): Promise<AsyncDisposable & { readonly stream: AsyncIterable<Buffer> }> {
  const compression = await compressionOf(path);
  if (compression === 'none') return { stream: source, [Symbol.asyncDispose]: async () => void source.destroy() };
  const bad = () => new ImportFailure('image_refused', `a layer is not a whole ${compression} file`);
  if (compression === 'gzip') {
    const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
    // The reader of the last stream sees the failures of all.
    pipeline(source, gunzip, () => undefined);
    return { stream: rethrow(gunzip, bad), [Symbol.asyncDispose]: async () => void gunzip.destroy() };
  }
  // Node's own reader stops after the first frame; layers may have many.
  const zstd = spawn('zstd', ['--decompress', '--stdout', '--quiet', `--memory=${ZSTD_MEMORY_MIB}MB`], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const exited = once(zstd, 'close') as Promise<[number | null]>;
  pipeline(source, zstd.stdin, () => undefined);
  const stream = (async function* () {
    yield* rethrow(zstd.stdout, bad);
    if ((await exited)[0] !== 0) throw bad();
  })();
  return {
    stream,
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
