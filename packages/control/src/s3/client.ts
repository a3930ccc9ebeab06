import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { Agent as HttpAgent, type IncomingMessage, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CocoreError } from '@cocore/protocol';
import { AwsV4Signer } from 'aws4fetch';
import type { S3Options } from './options.ts';

/** How long the store may be silent. */
const IDLE_TIMEOUT_MS = 30_000;
const MAX_TRIES = 3;
const FIRST_DELAY_MS = 200;
/** Answers that are read whole: a page of names, an error. */
const MAX_TEXT_BYTES = 4 * 1024 * 1024;

export interface S3Request {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'DELETE';
  /** After the prefix; empty for the bucket itself. */
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: S3Body;
}

/** Bytes with their length and hexadecimal SHA-256, which the store checks. */
export type S3Body = { readonly bytes: number; readonly sha256: string } & (
  { readonly path: string } | { readonly text: string }
);

/** Signed requests to what is below the prefix in one bucket. Each is sent again when the store fails or does not answer; all that are used here may be. */
export class S3Client implements Disposable {
  readonly #options: S3Options;
  readonly #agent: HttpAgent;
  /** Whether the store knows `If-None-Match` on a put; those that do not refuse it. */
  #conditionalPuts = true;

  constructor(options: S3Options) {
    this.#options = options;
    const agent = { keepAlive: true, maxSockets: 64 };
    this.#agent = options.endpoint.protocol === 'https:' ? new HttpsAgent(agent) : new HttpAgent(agent);
  }

  /**
   * The answer, whatever it says of the request; its body is the caller's to read or to discard.
   *
   * @throws CocoreError `not_ready`
   */
  async send(request: S3Request): Promise<IncomingMessage> {
    for (let tries = 1; ; tries += 1) {
      try {
        const response = await this.#sendOnce(request);
        if (!isPassing(response.statusCode!)) return response;
        throw new Error(`it answered ${response.statusCode} ${errorCodeOf(await textOf(response))}`);
      } catch (cause) {
        if (tries === MAX_TRIES) {
          const why = cause instanceof Error ? cause.message : String(cause);
          throw new CocoreError('not_ready', `the object store cannot be used: ${why}`, { cause });
        }
        await sleep(FIRST_DELAY_MS * 2 ** (tries - 1));
      }
    }
  }

  /** Writes an object whole. False when there is one already, and the store can tell; the store that cannot writes it again. */
  async put(key: string, body: S3Body): Promise<boolean> {
    const headers = this.#conditionalPuts ? { 'if-none-match': '*' } : {};
    const response = await this.send({ method: 'PUT', key, body, headers });
    if (response.statusCode === 200 || response.statusCode === 412) {
      response.resume();
      return response.statusCode === 200;
    }
    const text = await textOf(response);
    if (this.#conditionalPuts && errorCodeOf(text) === 'NotImplemented') {
      this.#conditionalPuts = false;
      return this.put(key, body);
    }
    throw refusal(response, text);
  }

  /** Nothing happens when it is not there. */
  async remove(key: string): Promise<void> {
    const response = await this.send({ method: 'DELETE', key });
    if (![200, 204, 404].includes(response.statusCode!)) throw await refused(response);
    response.resume();
  }

  /**
   * What is below the prefix is this server's from now on: the object `server` says so.
   *
   * @throws CocoreError `data_dir_in_use` where it is another's, `usage` where the store does not let this one in
   */
  async claim(serverId: string): Promise<void> {
    const owner = (await this.#readOwner()) ?? (await this.#writeOwner(serverId));
    if (owner === serverId) return;
    const { bucket, prefix } = this.#options;
    throw new CocoreError('data_dir_in_use', `s3://${bucket}/${prefix} is another server’s, ${owner}`);
  }

  /** An address that reads one key, until then, for whoever has it. */
  async presignedUrl(key: string, endpoint: URL, lifeSeconds: number): Promise<URL> {
    const url = this.#url(key, { 'X-Amz-Expires': String(lifeSeconds) }, endpoint);
    const { url: signed } = await this.#signer({ method: 'GET', url, headers: {}, signQuery: true }).sign();
    return signed;
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }

  async #readOwner(): Promise<string | null> {
    const response = await this.send({ method: 'GET', key: 'server' });
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
    await this.put('server', { text: serverId, bytes: Buffer.byteLength(serverId), sha256 });
    return this.#readOwner();
  }

  async #sendOnce({ method, key, query = {}, headers = {}, body }: S3Request): Promise<IncomingMessage> {
    const url = this.#url(key, query, this.#options.endpoint);
    const hash = body === undefined ? {} : { 'x-amz-content-sha256': body.sha256 };
    const signed = await this.#signer({ method, url, headers: { ...headers, ...hash } }).sign();
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(signed.url, {
      method,
      agent: this.#agent,
      timeout: IDLE_TIMEOUT_MS,
      headers: {
        ...Object.fromEntries(signed.headers),
        ...(method === 'PUT' ? { 'content-length': body?.bytes ?? 0 } : {}),
      },
    });
    const answer = Promise.withResolvers<IncomingMessage>();
    request.once('response', answer.resolve).on('error', answer.reject);
    request.once('timeout', () => request.destroy(new Error(`it was silent for ${IDLE_TIMEOUT_MS} ms`)));
    if (body !== undefined && 'path' in body) {
      // The store may answer, and close, before it has read all; then its answer counts.
      pipeline(createReadStream(body.path, { highWaterMark: 256 * 1024 }), request).catch(answer.reject);
    } else {
      request.end(body?.text);
    }
    return answer.promise;
  }

  #signer(of: { method: string; url: URL; headers: Record<string, string>; signQuery?: boolean }): AwsV4Signer {
    const { accessKeyId, secretAccessKey, sessionToken, region } = this.#options;
    return new AwsV4Signer({
      ...of,
      url: of.url.href,
      accessKeyId,
      secretAccessKey,
      ...(sessionToken === null ? {} : { sessionToken }),
      service: 's3',
      region,
    });
  }

  #url(key: string, query: Readonly<Record<string, string>>, endpoint: URL): URL {
    const { bucket, prefix } = this.#options;
    const url = new URL(key === '' ? `/${bucket}` : `/${bucket}/${prefix}${key}`, endpoint);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url;
  }
}

/** The store's own state, that may pass. 501 is what it will never do. */
const isPassing = (status: number): boolean => status === 429 || (status >= 500 && status !== 501);

/** It answered, and not what was asked for: its credentials, its settings, or its idea of S3 are others. */
export async function refused(response: IncomingMessage): Promise<CocoreError> {
  return refusal(response, await textOf(response));
}

/** As `refused`, of an answer that is read. */
export function refusal({ statusCode }: IncomingMessage, text: string): CocoreError {
  return new CocoreError('not_ready', `the object store answered ${statusCode} ${errorCodeOf(text)}`);
}

/** The body of a short answer. */
export async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    bytes += (chunk as Buffer).length;
    if (bytes > MAX_TEXT_BYTES) throw new Error(`an answer of the object store is longer than ${MAX_TEXT_BYTES} bytes`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** What S3 calls an error, such as `NoSuchBucket`; empty where the answer does not say. */
export function errorCodeOf(text: string): string {
  return /<Code>([A-Za-z0-9]{1,64})<\/Code>/.exec(text)?.[1] ?? '';
}
