import { type BlobRef, CocoreError } from '@cocore/protocol';
import { refused, S3Client, textOf } from '../s3/client.ts';
import type { S3Options } from '../s3/options.ts';
import type { BlobBackend, BlobReading, KeptBlob } from './backend.ts';

/** How long an address that a worker is sent to may be used to begin reading. */
const DIRECT_URL_SECONDS = 60;

/** Objects `PREFIXsha256/HEX` of one bucket, and `PREFIXserver` that says whose they are. */
export class S3Backend implements BlobBackend, Disposable {
  readonly #client: S3Client;
  readonly #options: S3Options;
  readonly #pageKeys: number;

  /** @param pageKeys how many names are asked for at once */
  constructor(options: S3Options, pageKeys = 1000) {
    this.#options = options;
    this.#pageKeys = pageKeys;
    this.#client = new S3Client(options);
  }

  open(serverId: string): Promise<void> {
    return this.#client.claim(serverId);
  }

  async size(digest: string): Promise<number | null> {
    const response = await this.#client.send({ method: 'HEAD', key: keyOf(digest) });
    response.resume();
    if (response.statusCode === 200) return Number(response.headers['content-length']);
    if (response.statusCode === 404) return null;
    throw await refused(response);
  }

  async keep(path: string, blob: BlobRef): Promise<boolean> {
    // A store that checks what it is sent does not hold other bytes under the name.
    if ((await this.size(blob.digest)) === blob.bytes) return false;
    const sha256 = blob.digest.slice('sha256:'.length);
    return this.#client.put(keyOf(blob.digest), { path, bytes: blob.bytes, sha256 });
  }

  async read(digest: string, from: number): Promise<BlobReading> {
    const headers = from === 0 ? {} : { range: `bytes=${from}-` };
    const response = await this.#client.send({ method: 'GET', key: keyOf(digest), headers });
    switch (response.statusCode) {
      case 200:
        return { bytes: Number(response.headers['content-length']), from: 0, stream: response };
      case 206: {
        const bytes = Number(/\/(\d+)$/.exec(response.headers['content-range'] ?? '')?.[1]);
        if (bytes !== from + Number(response.headers['content-length'])) throw await refused(response);
        return { bytes, from, stream: response };
      }
      case 416:
        response.resume();
        return this.read(digest, 0);
      case 404:
        response.resume();
        throw new CocoreError('blob_not_found', `there is no blob ${digest}`);
      default:
        throw await refused(response);
    }
  }

  remove(digest: string): Promise<void> {
    return this.#client.remove(keyOf(digest));
  }

  async *list(): AsyncIterable<KeptBlob> {
    const prefix = `${this.#options.prefix}sha256/`;
    for (let last: string | null = null; ;) {
      const query: Record<string, string> = { 'list-type': '2', 'max-keys': String(this.#pageKeys), prefix };
      if (last !== null) query['start-after'] = last;
      const response = await this.#client.send({ method: 'GET', key: '', query });
      if (response.statusCode !== 200) throw await refused(response);
      const text = await textOf(response);
      const before: string | null = last;
      for (const [, item] of text.matchAll(/<Contents>(.*?)<\/Contents>/gs)) {
        const key = /<Key>([^<]*)<\/Key>/.exec(item!)?.[1] ?? '';
        const keptAtMs = Date.parse(/<LastModified>([^<]*)<\/LastModified>/.exec(item!)?.[1] ?? '');
        last = key;
        const hex = key.slice(prefix.length);
        if (/^[0-9a-f]{64}$/.test(hex) && !Number.isNaN(keptAtMs)) yield { digest: `sha256:${hex}`, keptAtMs };
      }
      if (last === before || !/<IsTruncated>true<\/IsTruncated>/.test(text)) return;
    }
  }

  async directUrl(digest: string): Promise<URL | null> {
    const { publicEndpoint } = this.#options;
    if (publicEndpoint === null) return null;
    return this.#client.presignedUrl(keyOf(digest), publicEndpoint, DIRECT_URL_SECONDS);
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
  }
}

const keyOf = (digest: string): string => `sha256/${digest.slice('sha256:'.length)}`;
