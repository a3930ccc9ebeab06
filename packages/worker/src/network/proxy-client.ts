import { formatIpv4 } from '@cocore/protocol';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { Destination } from './destination.ts';

const CONNECT_TIMEOUT_MS = 15_000;
const MAX_HEAD_BYTES = 16 * 1024;

/** Makes connections through an operator's HTTP proxy, by CONNECT to the address that was decided about. */
export class ProxyClient {
  readonly #url: URL;

  /** @param url `http://` or `https://`, a host and a port, and user and password where it wants them */
  constructor(url: string) {
    this.#url = new URL(url);
  }

  /** A tunnel, and what has come through it already. @throws Error when the proxy makes none */
  async open({ address, port }: Destination): Promise<{ readonly socket: Socket; readonly first: Buffer }> {
    const socket = this.#connect();
    socket.setTimeout(CONNECT_TIMEOUT_MS, () => socket.destroy(new Error('the proxy does not answer')));
    try {
      const target = `${formatIpv4(address)}:${port}`;
      socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${this.#authorization()}\r\n`);
      const first = await headOf(socket);
      socket.setTimeout(0);
      return { socket, first };
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  #connect(): Socket {
    const { protocol, hostname, port } = this.#url;
    const host = hostname.replace(/^\[|\]$/g, '');
    if (protocol === 'http:') return connect({ host, port: Number(port || 80) });
    return connectTls({ host, port: Number(port || 443), servername: host });
  }

  #authorization(): string {
    const { username, password } = this.#url;
    if (username === '') return '';
    const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
    return `Proxy-Authorization: Basic ${Buffer.from(credentials).toString('base64')}\r\n`;
  }
}

/** Waits for the end of the proxy's answer, and gives what is behind it. */
async function headOf(socket: Socket): Promise<Buffer> {
  let head = Buffer.alloc(0);
  const end = Promise.withResolvers<Buffer>();
  const onData = (piece: Buffer) => {
    head = Buffer.concat([head, piece]);
    const at = head.indexOf('\r\n\r\n');
    if (at < 0 && head.length <= MAX_HEAD_BYTES) return;
    const status = /^HTTP\/1\.[01] (\d{3})/.exec(head.toString('latin1', 0, 32))?.[1];
    if (at < 0 || status?.startsWith('2') !== true) {
      return end.reject(new Error(`the proxy answers ${status ?? 'no HTTP'}`));
    }
    socket.pause();
    end.resolve(head.subarray(at + 4));
  };
  socket.on('data', onData);
  socket.once('error', end.reject);
  socket.once('close', () => end.reject(new Error('the proxy ended the connection')));
  try {
    return await end.promise;
  } finally {
    socket.off('data', onData);
  }
}
