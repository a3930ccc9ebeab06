import { type Ipv4Subnet, isWithin, parseIpv4 } from '@cocore/protocol';
import { readFileSync } from 'node:fs';
import { awakeClock, type Clock } from '../host/clock.ts';

/** How long what was read is taken for true. */
const KEPT_MS = 1_000;

/**
 * The addresses that this host answers for itself, and those that it reaches without a router: its own networks, whether they are private or not. As the kernel's
 * routes say, whatever interface they are of and whether it is up.
 */
export class OwnAddresses {
  readonly #path: string;
  readonly #clock: Clock;
  #subnets: readonly Ipv4Subnet[] = [];
  #readAtMs = -Infinity;

  constructor(path = '/proc/net/fib_trie', clock: Clock = awakeClock) {
    this.#path = path;
    this.#clock = clock;
  }

  /** @throws Error when the kernel does not tell */
  includes(address: number): boolean {
    const nowMs = this.#clock();
    if (nowMs - this.#readAtMs >= KEPT_MS) {
      this.#subnets = parseFibTrie(readFileSync(this.#path, 'latin1'));
      this.#readAtMs = nowMs;
    }
    return this.#subnets.some((subnet) => isWithin(subnet, address));
  }
}

/** No link has more hosts: a route that is wider leads to the internet, as through a tunnel. */
const WIDEST_LINK = 8;

/** What the kernel's tables of routes have that is local, or on a link. */
export function parseFibTrie(text: string): Ipv4Subnet[] {
  const subnets: Ipv4Subnet[] = [];
  let base: number | null = null;
  for (const line of text.split('\n')) {
    const leaf = /^\s*\|-- ([\d.]+)$/.exec(line);
    if (leaf !== null) base = parseIpv4(leaf[1]!);
    const route = /^\s*\/(\d+) (\w+) (\w+)/.exec(line);
    if (route === null || base === null) continue;
    const [, prefix, scope, type] = route;
    if (type === 'LOCAL' || (type === 'UNICAST' && scope === 'link' && Number(prefix) >= WIDEST_LINK)) {
      subnets.push({ base, prefix: Number(prefix) });
    }
  }
  return subnets;
}
