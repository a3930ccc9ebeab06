import { CocoreError, GATEWAY_PATH, GATEWAY_SUBPROTOCOL, MAX_GATEWAY_TEXT_BYTES } from '@cocore/protocol';
import { createHash } from 'node:crypto';
import { type ClientRequestArgs, type IncomingMessage, request as httpRequest, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Readable } from 'node:stream';
import { connect as tlsConnect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { WebSocket } from 'ws';
import { SourceAway } from '../blobs/download.ts';

export interface EndpointOptions {
  /** `http(s)://` or `ws(s)://` and host; a path is not part of it. */
  readonly url: string;
  /** Plain text to another machine is refused without it. */
  readonly insecure: boolean;
  /** A certificate authority in PEM, instead of the system's. */
  readonly ca?: string | undefined;
}

/** How long the server may take to accept a connection, and to go on with an answer that it has begun. */
const CONNECT_TIMEOUT_MS = 10_000;
const IDLE_TIMEOUT_MS = 30_000;

/** The session that the token was of is over, or what stands before the server does not reach it. */
const AWAY: ReadonlySet<number> = new Set([401, 502, 503, 504]);

const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/;

/**
 * A mask keeps what is sent from looking like HTTP to what stands between and cannot tell the two apart; where TLS is, or one host, nothing does. Masking and
 * unmasking each byte in JavaScript took a fifth of the daemon's time while it sent output; a mask of zeros is skipped by both ends.
 */
const noMask = (mask: Buffer): void => void mask.fill(0);

/** The control server as the daemon dials it: its address, and how it is known. */
export class Endpoint {
  /** `host:port`, as signed in the hello. */
  readonly authority: string;
  /** SHA-256 of the certificate that must be shown, hexadecimal; null to go by authorities. */
  pin: string | null = null;
  readonly #url: URL;
  readonly #secure: boolean;
  readonly #ca: string | undefined;

  /** @throws CocoreError `usage` or `insecure_refused` */
  constructor({ url, insecure, ca }: EndpointOptions) {
    const parsed = URL.canParse(url) ? new URL(url) : null;
    if (parsed === null || !/^(?:https?|wss?):$/.test(parsed.protocol)) {
      throw new CocoreError('usage', `--server ${JSON.stringify(url)} is not an http(s):// or ws(s):// address`);
    }
    this.#url = parsed;
    this.#secure = parsed.protocol === 'https:' || parsed.protocol === 'wss:';
    this.#ca = ca;
    const port = parsed.port === '' ? (this.#secure ? '443' : '80') : parsed.port;
    this.authority = `${parsed.hostname}:${port}`;
    if (!this.#secure && !insecure && !LOOPBACK.test(parsed.hostname)) {
      throw new CocoreError('insecure_refused', `${url} would carry keys and output in plain text to another machine`);
    }
  }

  /** The control server's name or address, without brackets. */
  get host(): string {
    return this.#url.hostname.replace(/^\[|\]$/g, '');
  }

  /** A WebSocket that is being opened. */
  dial(): WebSocket {
    const url = `${this.#secure ? 'wss' : 'ws'}://${this.#url.host}${GATEWAY_PATH}`;
    return new WebSocket(url, GATEWAY_SUBPROTOCOL, {
      ...this.#connection(),
      handshakeTimeout: CONNECT_TIMEOUT_MS,
      maxPayload: MAX_GATEWAY_TEXT_BYTES,
      perMessageDeflate: false,
      followRedirects: false,
      ...(this.#secure || LOOPBACK.test(this.#url.hostname) ? { generateMask: noMask } : {}),
    });
  }

  /**
   * The bytes of a blob from `from` on, of which nothing is checked yet. Where the server sends to another place, once, that place
   * is asked, without the token.
   *
   * @throws SourceAway when the server cannot be asked now, Error when neither gives the bytes
   */
  async blob(digest: string, token: string, signal: AbortSignal, from: number): Promise<Readable> {
    const range = from === 0 ? {} : { range: `bytes=${from}-` };
    const connection = this.#connection();
    const asked = answerOf(this.#secure, {
      ...connection,
      // An agent would make the connection itself, past the pin.
      ...(connection.createConnection === undefined ? { agent: false } : {}),
      host: this.host,
      port: this.authority.slice(this.authority.lastIndexOf(':') + 1),
      path: `/v1/worker/blobs/${digest}`,
      headers: { host: this.#url.host, authorization: `Bearer ${token}`, ...range },
      signal,
    });
    const response = await asked.catch((cause: unknown) => {
      if (signal.aborted || cause instanceof CocoreError) throw cause;
      throw new SourceAway('the server cannot be reached', { cause });
    });
    if (AWAY.has(response.statusCode ?? 0)) {
      response.destroy();
      throw new SourceAway(`the server answered ${response.statusCode}`);
    }
    if (response.statusCode !== 307) return bytesOf(response, from, 'the server');
    response.destroy();
    const place = this.#elsewhere(response.headers.location ?? '');
    const other = await answerOf(place.protocol === 'https:', {
      agent: false,
      host: place.hostname.replace(/^\[|\]$/g, ''),
      ...(place.port === '' ? {} : { port: place.port }),
      path: place.pathname + place.search,
      headers: { host: place.host, ...range },
      signal,
    });
    return bytesOf(other, from, place.host);
  }

  /** Plain text goes no further than this machine, and only a server on this machine may say so. */
  #elsewhere(location: string): URL {
    const place = URL.canParse(location) ? new URL(location) : null;
    const isLocal = place !== null && LOOPBACK.test(place.hostname) && LOOPBACK.test(this.#url.hostname);
    if (place?.protocol === 'https:' || (place?.protocol === 'http:' && isLocal)) return place;
    throw new Error(`the server sends to ${place === null ? 'no address' : place.origin}, which is not https`);
  }

  #connection(): Pick<ClientRequestArgs, 'createConnection'> & { ca?: string } {
    const { pin } = this;
    const ca = this.#ca === undefined ? {} : { ca: this.#ca };
    if (!this.#secure || pin === null) return ca;
    return {
      // A pinned certificate is known by itself: no authority and no name is asked. Nothing is written to a connection
      // before it is handed over here.
      createConnection: (options, handOver) => {
        const socket = tlsConnect({ ...(options as ConnectionOptions), rejectUnauthorized: false });
        const onError = (error: Error) => handOver?.(error, socket);
        socket.once('error', onError);
        socket.once('secureConnect', () => {
          socket.off('error', onError);
          const shown = certificateSha256(socket);
          if (shown === pin) handOver?.(null, socket);
          else {
            const error = new CocoreError(
              'server_mismatch',
              `the server’s certificate is not the pinned one: ${shown}`,
            );
            handOver?.(error, socket);
            socket.destroy();
          }
        });
        return undefined;
      },
    };
  }
}

async function answerOf(secure: boolean, options: RequestOptions): Promise<IncomingMessage> {
  const request = (secure ? httpsRequest : httpRequest)({ ...options, timeout: IDLE_TIMEOUT_MS });
  const answer = Promise.withResolvers<IncomingMessage>();
  request.once('response', answer.resolve).on('error', answer.reject);
  request.once('timeout', () => request.destroy(new Error(`the server was silent for ${IDLE_TIMEOUT_MS} ms`)));
  request.end();
  return answer.promise;
}

/** @throws Error when the answer does not begin at `from` */
function bytesOf(response: IncomingMessage, from: number, who: string): Readable {
  const { statusCode, headers } = response;
  if (statusCode === 200 && from === 0) return response;
  if (statusCode === 206 && headers['content-range']?.startsWith(`bytes ${from}-`) === true) return response;
  response.destroy();
  throw new Error(`${who} answered ${statusCode}`);
}

function certificateSha256(socket: TLSSocket): string {
  return createHash('sha256').update(socket.getPeerCertificate(true).raw).digest('hex');
}
