import { networkInterfaces } from 'node:os';

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

/**
 * The names that the server answers to. A request or a worker that names another was meant for another server, or was
 * led here by a name that somebody else controls.
 */
export class ServerNames {
  readonly #hosts: ReadonlySet<string>;
  readonly #anyPort: ReadonlySet<string>;
  #port = 0;

  /**
   * @param host what the server listens on
   * @param allowed further names, each with or without a port
   */
  constructor(host: string, allowed: readonly string[]) {
    const isWildcard = host === '0.0.0.0' || host === '::';
    const own = isWildcard
      ? Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((one) => one.address))
      : [host];
    this.#hosts = new Set(
      [...LOOPBACK, ...own.map(bracketed), ...allowed.filter(hasPort)].map((name) => name.toLowerCase()),
    );
    this.#anyPort = new Set(allowed.filter((name) => !hasPort(name)).map((name) => bracketed(name).toLowerCase()));
  }

  /** Known once the server listens. */
  set port(port: number) {
    this.#port = port;
  }

  /** @param authority `host` or `host:port` */
  includes(authority: string): boolean {
    const text = authority.toLowerCase();
    if (this.#hosts.has(text) && hasPort(text)) return true;
    const [, host, port] = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/.exec(text) ?? [];
    if (host === undefined) return false;
    if (this.#anyPort.has(host)) return true;
    const isDefaultPort = port === undefined && (this.#port === 80 || this.#port === 443);
    return this.#hosts.has(host) && (isDefaultPort || Number(port) === this.#port);
  }
}

const hasPort = (name: string): boolean => /^(?:\[[^\]]+\]|[^:]+):\d+$/.test(name);
const bracketed = (host: string): string =>
  host.includes(':') && !host.startsWith('[') && !hasPort(host) ? `[${host}]` : host;
