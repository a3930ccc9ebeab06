import http from 'node:http';
import https from 'node:https';
import { Readable } from 'node:stream';
import type { Answer, Outgoing, Transport } from '../transport.ts';

/** How long a connection is kept for the next request, or less where the server says that it keeps it for less. Proxies and NATs may forget it after a minute. */
const IDLE_MS = 50_000;
const CONNECT_MS = 10_000;
/** Whoever waits or follows is told something more often than this. */
const SILENCE_MS = 300_000;
const REDIRECTS: readonly (number | undefined)[] = [301, 302, 303, 307, 308];

/** By protocol. All clients use them, so those of one server share its connections. */
const agents = new Map<string, http.Agent>();

/** Over `node:http`: `fetch` takes three times as much CPU for a short call. */
export const platformTransport = (url: string, silenceMs = SILENCE_MS): Transport =>
  new NodeTransport(new URL(url), silenceMs);

class NodeTransport implements Transport {
  readonly #request: typeof http.request;
  readonly #server: http.RequestOptions;
  readonly #authority: string;
  readonly #silenceMs: number;

  constructor({ protocol, hostname, port, host }: URL, silenceMs: number) {
    const isTls = protocol === 'https:';
    if (!isTls && protocol !== 'http:') throw new TypeError(`${protocol} is neither http: nor https:`);
    this.#request = isTls ? https.request : http.request;
    this.#server = {
      agent: agentOf(protocol),
      host: hostname.replace(/^\[(.*)\]$/, '$1'),
      port,
      timeout: silenceMs,
    };
    this.#authority = host;
    this.#silenceMs = silenceMs;
  }

  send({ method, path, headers, body, signal }: Outgoing): Promise<Answer> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const list = ['host', this.#authority];
      for (const name in headers) list.push(name, headers[name]!);
      if (body !== undefined || method === 'POST') list.push('content-length', String(Buffer.byteLength(body ?? '')));
      const request = this.#request({ ...this.#server, method, path, headers: list });
      let answer: http.IncomingMessage | null = null;
      // Told to who reads the answer, or waits for it.
      const giveUp = (reason: Error) => void (answer ?? request).destroy(reason);
      request.on('error', reject);
      request.on('response', (response) => {
        answer = response;
        if (!REDIRECTS.includes(response.statusCode)) {
          resolve(answerOf(response));
          return;
        }
        reject(new Error('unexpected redirect'));
        response.destroy();
      });
      request.once('close', () => {
        // As when the server upgrades the connection, which nobody asked for.
        if (answer === null) reject(new Error('the connection ended before there was an answer'));
      });
      request.on('timeout', () => {
        // What was told, and its reader has not taken yet, is no silence.
        if (answer !== null && (answer.complete || answer.readableLength > 0))
          answer.socket.setTimeout(this.#silenceMs);
        else giveUp(new Error(`not a word for ${this.#silenceMs / 1000} s`));
      });
      request.on('socket', (socket) => {
        if (!socket.connecting) return;
        const timer = setTimeout(() => giveUp(new Error(`no connection within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
        for (const event of ['connect', 'close']) socket.once(event, () => clearTimeout(timer));
      });
      if (signal !== undefined) {
        const abort = () => giveUp(errorOf(signal.reason));
        signal.addEventListener('abort', abort);
        request.once('close', () => signal.removeEventListener('abort', abort));
      }
      request.end(body);
    });
  }
}

function agentOf(protocol: string): http.Agent {
  const known = agents.get(protocol);
  if (known !== undefined) return known;
  const { Agent, globalAgent } = protocol === 'https:' ? https : http;
  // A proxy is used where Node is told to use one for all requests.
  const { proxyEnv } = (globalAgent as unknown as { options: http.AgentOptions }).options;
  const agent = new Agent({ keepAlive: true, timeout: IDLE_MS, ...(proxyEnv === undefined ? {} : { proxyEnv }) });
  agents.set(protocol, agent);
  return agent;
}

function answerOf(response: http.IncomingMessage): Answer {
  return {
    status: response.statusCode!,
    mediaType: response.headers['content-type'] ?? null,
    body: response,
    stream: () => Readable.toWeb(response) as ReadableStream<Uint8Array<ArrayBuffer>>,
    text: () => textOf(response),
  };
}

function textOf(response: http.IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    response.on('data', (bytes: Buffer) => pieces.push(bytes));
    response.on('end', () => resolve((pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)).toString()));
    response.on('error', reject);
    if (response.destroyed) reject(new Error('the connection ended before the answer did'));
  });
}

const errorOf = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)));
