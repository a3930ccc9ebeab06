import { CocoreError, parseIpv4 } from '@cocore/protocol';
import { lookup } from 'node:dns/promises';
import { mkdir, rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { awakeClock, type Clock } from '../host/clock.ts';
import { UidPool } from '../sandbox/uid-pool.ts';
import { EgressNetwork, type EgressParts } from './egress.ts';
import { OwnAddresses } from './own-addresses.ts';
import { probeNetwork } from './probe.ts';
import { ProxyClient } from './proxy-client.ts';
import { hostResolve, type Resolve } from './resolve.ts';

export interface NetworksOptions {
  /** For what belongs to live networks; this has it to itself. */
  readonly directory: string;
  /** The control server's host, a name or an address. */
  readonly serverHost: string;
  /** `http://` or `https://`; null: connections are made from this host. */
  readonly proxy: string | null;
  readonly log: Logger;
  readonly resolve?: Resolve;
  readonly gateProgram?: string;
  /** By which answers of name servers grow old. */
  readonly clock?: Clock;
}

export type NetworkOf = Pick<EgressParts, 'name' | 'network' | 'onLimited' | 'onLost'>;

/** How long the control server's addresses are taken for what they were. */
const SERVER_KEPT_MS = 60_000;

/** Makes the networks of this worker's executions. */
export class Networks implements AsyncDisposable {
  readonly #options: NetworksOptions;
  readonly #uids = new UidPool();
  readonly #own = new OwnAddresses();
  readonly #resolve: Resolve;
  readonly #proxy: ProxyClient | null;
  #server: readonly number[] = [];
  #serverReadAtMs = -Infinity;

  private constructor(options: NetworksOptions) {
    this.#options = options;
    this.#resolve = options.resolve ?? hostResolve();
    this.#proxy = options.proxy === null ? null : new ProxyClient(options.proxy);
  }

  /** Removes what a dead life of this daemon left. @throws CocoreError `host_unfit` when this host can make none */
  static async open(options: NetworksOptions): Promise<Networks> {
    const networks = new Networks(options);
    const missing = (await probeNetwork(options.gateProgram)).find((check) => !check.ok);
    if (missing !== undefined) {
      const { name, reason, remedy } = missing;
      throw new CocoreError('host_unfit', `${name}: ${reason}${remedy === null ? '' : ` (${remedy})`}`);
    }
    await rm(options.directory, { recursive: true, force: true });
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    return networks;
  }

  /** The network of one execution, to which nothing is attached yet. @throws CocoreError `protocol_violation` for a list that is none */
  async make(of: NetworkOf): Promise<EgressNetwork> {
    await this.#readServer();
    const { directory, log, gateProgram, clock } = this.#options;
    return new EgressNetwork({
      ...of,
      directory,
      log,
      uids: this.#uids,
      resolve: this.#resolve,
      proxy: this.#proxy,
      isClosed: (address) => this.#isClosed(address),
      ...(gateProgram === undefined ? {} : { gateProgram }),
      ...(clock === undefined ? {} : { clock }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#options.directory, { recursive: true, force: true });
  }

  #isClosed(address: number): boolean {
    if (awakeClock() - this.#serverReadAtMs >= SERVER_KEPT_MS) void this.#readServer();
    return this.#server.includes(address) || this.#own.includes(address);
  }

  /** Where nobody can tell, it is where it was. */
  async #readServer(): Promise<void> {
    this.#serverReadAtMs = awakeClock();
    const found = await lookup(this.#options.serverHost, { all: true, family: 4 }).catch(() => []);
    const addresses = found.map(({ address }) => parseIpv4(address)).filter((address) => address !== null);
    if (addresses.length > 0) this.#server = addresses;
  }
}
