import { type EgressRule, egressRule } from '@cocore/protocol';

/** The ports of an address that may be connected to; null is all of them. */
export type Ports = ReadonlySet<number> | null;

const LOCAL_NAMES = /^(?:.*\.)?localhost$/;

/** What one function may reach, as its list says. */
export class AllowList {
  readonly #rules: readonly EgressRule[];

  /** @throws RangeError for an entry that is none */
  constructor(targets: readonly string[]) {
    this.#rules = targets.map(egressRule);
  }

  /** On which ports what a name leads to may be reached; undefined when the name is not listed. */
  portsOfName(name: string): Ports | undefined {
    if (LOCAL_NAMES.test(name)) return undefined;
    return portsOf(this.#rules.filter((rule) => isNamed(rule, name)));
  }

  /** Whether the list names the address itself. */
  permitsAddress(address: number, port: number): boolean {
    return this.#rules.some(
      (rule) =>
        (rule.kind === 'any' || (rule.kind === 'range' && rule.first <= address && address <= rule.last)) &&
        (rule.port === null || rule.port === port),
    );
  }
}

function isNamed(rule: EgressRule, name: string): boolean {
  switch (rule.kind) {
    case 'any':
      return name.includes('.');
    case 'name':
      return rule.name === name;
    case 'below':
      return name.endsWith(`.${rule.name}`);
    case 'range':
      return false;
  }
}

function portsOf(rules: readonly EgressRule[]): Ports | undefined {
  if (rules.length === 0) return undefined;
  const ports = rules.map(({ port }) => port);
  return ports.includes(null) ? null : new Set(ports as number[]);
}
