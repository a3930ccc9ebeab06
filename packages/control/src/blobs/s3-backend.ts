import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import type { BlobBackend, BlobReading, KeptBlob } from './backend.ts';
import { errorCodeOf, type S3Body, S3Client, textOf } from './s3-client.ts';
import type { S3Options } from './s3-options.ts';

/** How long an address that a worker is sent to may be used to begin reading. */
const DIRECT_URL_SECONDS = 60;

/** Objects `PREFIXsha256/HEX` of one bucket, and `PREFIXserver` that says whose they are. */
export class S3Backend implements BlobBackend, Disposable {
  readonly #client: S3Client;
  readonly #options: S3Options;
  readonly #pageKeys: number;
  /** Whether the store knows `If-None-Match` on a put; those that do not refuse it. */
  #conditionalPuts = true;

  /** @param pageKeys how many names are asked for at once */
  constructor(options: S3Options, pageKeys = 1000) {
    this.#options = options;
    this.#pageKeys = pageKeys;
    this.#client = new S3Client(options);
  }

  async open(serverId: string): Promise<void> {
    const owner = (await this.#readOwner()) ?? (await this.#writeOwner(serverId));
    if (owner === serverId) return;
    const { bucket, prefix } = this.#options;
    throw new CocoreError('data_dir_in_use', `s3://${bucket}/${prefix} holds the blobs of another server, ${owner}`);
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
    return this.#put(keyOf(blob.digest), { path, bytes: blob.bytes, sha256 });
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

  async remove(digest: string): Promise<void> {
    const response = await this.#client.send({ method: 'DELETE', key: keyOf(digest) });
    if (response.statusCode !== 204 && response.statusCode !== 200 && response.statusCode !== 404) {
      throw await refused(response);
    }
    response.resume();
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

  /** False when there is one already. */
  async #put(key: string, body: S3Body): Promise<boolean> {
    const headers = this.#conditionalPuts ? { 'if-none-match': '*' } : undefined;
    const response = await this.#client.send({
      method: 'PUT',
      key,
      body,
      ...(headers === undefined ? {} : { headers }),
    });
    if (response.statusCode === 412) {
      response.resume();
      return false;
    }
    if (response.statusCode === 200) {
      response.resume();
      return true;
    }
    const text = await textOf(response);
    if (this.#conditionalPuts && errorCodeOf(text) === 'NotImplemented') {
      this.#conditionalPuts = false;
      return this.#put(key, body);
    }
    throw refusal(response, text);
  }

  async #readOwner(): Promise<string | null> {
    const response = await this.#client.send({ method: 'GET', key: 'server' });
    const text = await textOf(response);
    if (response.statusCode === 200) return text;
    if (response.statusCode === 404 && errorCodeOf(text) !== 'NoSuchBucket') return null;
    const { bucket, endpoint } = this.#options;
    throw new CocoreError(
      'usage',
      `the bucket ${bucket} at ${endpoint.origin} cannot be used: ${response.statusCode} ${errorCodeOf(text)}`,
    );
  }

  /** @returns whose it is: another may have been faster */
  async #writeOwner(serverId: string): Promise<string | null> {
    const sha256 = createHash('sha256').update(serverId).digest('hex');
    await this.#put('server', { text: serverId, bytes: Buffer.byteLength(serverId), sha256 });
    return this.#readOwner();
  }
}

const keyOf = (digest: string): string => `sha256/${digest.slice('sha256:'.length)}`;

async function refused(response: IncomingMessage): Promise<CocoreError> {
  return refusal(response, await textOf(response));
}

/** It answered, and not what was asked for: its credentials, its settings, or its idea of S3 are others. */
function refusal(response: IncomingMessage, text: string): CocoreError {
  return new CocoreError('not_ready', `the blob store answered ${response.statusCode} ${errorCodeOf(text)}`);
}
