import type { Ports } from './allow-list.ts';

/** What a name lookup may keep in memory for one execution. */
const MAX_ADDRESSES = 4096;

/**
 * The addresses that one execution was answered for names on its list, and the ports that the list has with them. Only to these does a name let it connect: so
 * what counts is what was checked, whatever the name leads to later.
 */
export class Pins {
  readonly #ports = new Map<number, Ports>();

  /** From now on. When there are too many, those that were answered longest ago are forgotten. */
  add(addresses: readonly number[], ports: Ports): void {
    for (const address of addresses) {
      const before = this.#ports.get(address);
      this.#ports.delete(address);
      this.#ports.set(address, before === undefined ? ports : together(before, ports));
    }
    for (const oldest of this.#ports.keys()) {
      if (this.#ports.size <= MAX_ADDRESSES) return;
      this.#ports.delete(oldest);
    }
  }

  permits(address: number, port: number): boolean {
    const ports = this.#ports.get(address);
    return ports === null || ports?.has(port) === true;
  }
}

const together = (one: Ports, other: Ports): Ports => (one === null || other === null ? null : one.union(other));
