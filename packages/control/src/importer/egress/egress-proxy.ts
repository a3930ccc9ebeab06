import { isPublicAddress } from '@cocore/protocol';
import { lookup } from 'node:dns/promises';
import { createServer, type Server } from 'node:http';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

const CONNECT_TIMEOUT_MS = 15_000;
const IDLE_TIMEOUT_MS = 120_000;
const MAX_OPEN = 32;
const MAX_TOTAL = 4096;
const MAX_ADDRESSES = 4;

export type Resolve = (name: string) => Promise<readonly string[]>;
export type Connect = (address: string, port: number) => Socket;

const resolveName: Resolve = async (name) => (await lookup(name, { all: true })).map(({ address }) => address);

/** Why the proxy kept a connection from being made, the first time that it did. */
export interface Refusal {
  readonly kind: 'address' | 'plain' | 'unresolved' | 'bytes';
  readonly message: string;
}

/**
 * The only way out of an import's jail: an HTTP proxy on a Unix socket that makes tunnels (CONNECT) to hosts on the public internet and
 * nothing else. A name is resolved once, here, and what is connected to is exactly an address that was checked. So it does not matter who
 * named the host: the reference, a redirect, an authentication realm, or a resolver that answers differently the next time.
 */
export class EgressProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #resolve: Resolve;
  readonly #connect: Connect;
  readonly #maxBytes: number;
  readonly #sockets = new Set<Duplex>();
  #bytes = 0;
  #total = 0;
  #refusal: Refusal | null = null;

  /** @param options.maxBytes from the internet, all connections together */
  constructor(options: { maxBytes: number; resolve?: Resolve | undefined; connect?: Connect | undefined }) {
    this.#maxBytes = options.maxBytes;
    this.#resolve = options.resolve ?? resolveName;
    this.#connect = options.connect ?? ((host, port) => connectTcp({ host, port }));
    this.#server = createServer((request, response) => {
      this.#refuse('plain', `plain HTTP is not spoken to ${shortened(request.url ?? '')}`);
      response.writeHead(403, { connection: 'close' }).end();
    });
    this.#server.maxConnections = MAX_OPEN;
    this.#server.on('connect', (request, client, head) => {
      this.#own(client);
      void this.#tunnel(request.url ?? '', client, head);
    });
  }

  get refusal(): Refusal | null {
    return this.#refusal;
  }

  async listen(socketPath: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(socketPath, resolve);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  #own(socket: Duplex): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
  }

  #refuse(kind: Refusal['kind'], message: string): void {
    this.#refusal ??= { kind, message };
  }

  async #tunnel(target: string, client: Duplex, head: Buffer): Promise<void> {
    const answer = (status: string) => client.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`);
    const { host, port } = targetOf(target);
    this.#total += 1;
    if (host === null || this.#total > MAX_TOTAL) return void answer('400 Bad Request');
    let addresses: readonly string[];
    try {
      addresses = isIP(host) === 0 ? await this.#resolve(host) : [host];
    } catch {
      addresses = [];
    }
    if (addresses.length === 0) {
      this.#refuse('unresolved', `there is no host ${shortened(host)}`);
      return void answer('502 Bad Gateway');
    }
    const open = addresses.filter(isPublicAddress).slice(0, MAX_ADDRESSES);
    if (open.length === 0) {
      this.#refuse('address', `${shortened(host)} is not a host on the public internet (${shortened(addresses[0]!)})`);
      return void answer('403 Forbidden');
    }
    for (const address of open) {
      const upstream = await this.#open(address, port);
      if (upstream === null) continue;
      if (client.destroyed) return void upstream.destroy();
      client.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      if (head.length > 0) upstream.write(head);
      this.#join(client, upstream);
      return;
    }
    answer('502 Bad Gateway');
  }

  #open(address: string, port: number): Promise<Socket | null> {
    const socket = this.#connect(address, port);
    this.#own(socket);
    return new Promise((resolve) => {
      const timer = setTimeout(() => socket.destroy(), CONNECT_TIMEOUT_MS);
      socket.once('connect', () => {
        clearTimeout(timer);
        socket.setTimeout(IDLE_TIMEOUT_MS, () => socket.destroy());
        resolve(socket);
      });
      socket.once('close', () => {
        clearTimeout(timer);
        resolve(null);
      });
    });
  }

  #join(client: Duplex, upstream: Socket): void {
    upstream.on('data', (chunk: Buffer) => {
      this.#bytes += chunk.length;
      if (this.#bytes <= this.#maxBytes) return;
      this.#refuse('bytes', `the registry sent more than ${this.#maxBytes} bytes`);
      upstream.destroy();
    });
    upstream.pipe(client);
    client.pipe(upstream);
    // What it sent before its end may still be on its way; without an end it broke off.
    upstream.once('close', () => {
      if (!upstream.readableEnded) client.destroy();
    });
    client.once('close', () => upstream.destroy());
  }
}

/** `HOST:PORT`, the host with brackets where it is IPv6. */
function targetOf(target: string): { host: string | null; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]{1,253})):([0-9]{1,5})$/.exec(target);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2] ?? null;
  return port >= 1 && port <= 65_535 ? { host, port } : { host: null, port: 0 };
}

function shortened(text: string): string {
  return text.replace(/[^\x21-\x7e]/g, '?').slice(0, 120);
}
