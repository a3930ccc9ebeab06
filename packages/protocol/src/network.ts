import { z } from 'zod';
import { isSpecialSubnet, parseIpv4, parseIpv4Subnet } from './addresses.ts';
import { DEFAULT_EGRESS_BYTES, MAX_EGRESS_BYTES, MAX_EGRESS_TARGETS } from './limits.ts';

/**
 * What a function may reach over a network: nothing, or what it lists. Whatever is listed, addresses that are not public, the worker's host and its
 * networks, and the control server are never reached.
 */

/** What a target names. `port` is null for all of them. Numbers of addresses are IPv4's, as unsigned 32 bits. */
export type EgressRule =
  | { readonly kind: 'any'; readonly port: number | null }
  /** Exactly this name, in lower case and without a dot at its end. */
  | { readonly kind: 'name'; readonly name: string; readonly port: number | null }
  /** Every name below this one, at any depth, and not the name itself. */
  | { readonly kind: 'below'; readonly name: string; readonly port: number | null }
  | { readonly kind: 'range'; readonly first: number; readonly last: number; readonly port: number | null };

/** Between mail servers: what is sent there from a leased host would cost its owner's address its name. Submission has ports of its own. */
export const MAIL_PORT = 25;

const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;
const MAX_NAME_LENGTH = 253;

function nameOf(text: string): string {
  const name = text.endsWith('.') ? text.slice(0, -1) : text;
  const labels = name.split('.');
  if (/[^\x21-\x7e]/.test(name)) throw new RangeError('a name outside ASCII is written as its xn-- form');
  if (name.length > MAX_NAME_LENGTH || !labels.every((label) => LABEL.test(label)))
    throw new RangeError('it is neither a name, nor *.NAME, nor an IPv4 address or range, nor *');
  if (labels.length < 2)
    throw new RangeError('a name has a dot in it: names of one label are of the host’s own network');
  if (/^\d+$/.test(labels.at(-1)!)) throw new RangeError('an IPv4 address has four parts of 0 to 255');
  return name;
}

function rangeOf(text: string): { first: number; last: number } {
  const subnet = parseIpv4Subnet(text);
  if (subnet === null) throw new RangeError('a range is the first IPv4 address of it, a slash, and 0 to 32');
  if (isSpecialSubnet(subnet)) throw new RangeError('it is not public, and reached by no function');
  return { first: subnet.base, last: subnet.base + 2 ** (32 - subnet.prefix) - 1 };
}

/**
 * What one entry of an allow list says: `NAME`, `*.NAME`, `A.B.C.D`, `A.B.C.D/PREFIX` or `*`, each with `:PORT` behind it or without.
 *
 * @throws RangeError with what is wrong with it, for people
 */
export function egressRule(target: string): EgressRule {
  const lower = target.toLowerCase();
  if (lower.split(':').length > 2) throw new RangeError('a function has IPv4 alone');
  const [host, portText] = lower.split(':') as [string, string?];
  const port = portText === undefined ? null : Number(portText);
  if (port !== null && (!/^[1-9]\d{0,4}$/.test(portText!) || port > 65_535))
    throw new RangeError('a port is a number from 1 to 65535');
  if (port === MAIL_PORT) throw new RangeError('port 25 is reached from no worker; mail is submitted to 465 or 587');
  if (host === '*') return { kind: 'any', port };
  if (host.startsWith('*.')) return { kind: 'below', name: nameOf(host.slice(2)), port };
  if (host.includes('/') || parseIpv4(host) !== null) return { kind: 'range', ...rangeOf(host), port };
  return { kind: 'name', name: nameOf(host), port };
}

/** One entry of an allow list, as `egressRule` reads it. */
export const EgressTarget = z
  .string()
  .min(1)
  .max(MAX_NAME_LENGTH + 8)
  .superRefine((target, context) => {
    try {
      egressRule(target);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as RangeError).message });
    }
  });

const EgressFields = {
  mode: z.literal('egress'),
  allow: z.array(EgressTarget).min(1).max(MAX_EGRESS_TARGETS),
};

/** As a worker is told it. */
export const Network = z.discriminatedUnion('mode', [
  z.object({ mode: z.literal('none') }),
  z.object({ ...EgressFields, maxBytes: z.int().min(1).max(MAX_EGRESS_BYTES) }),
]);
export type Network = z.infer<typeof Network>;
export type Egress = Extract<Network, { mode: 'egress' }>;

/** As it is asked for at a deployment. `maxBytes`: of one execution, both directions together. */
export const NetworkInput = z.discriminatedUnion('mode', [
  z.strictObject({ mode: z.literal('none') }),
  z.strictObject({ ...EgressFields, maxBytes: z.int().min(1).max(MAX_EGRESS_BYTES).default(DEFAULT_EGRESS_BYTES) }),
]);

export const NO_NETWORK: Network = { mode: 'none' };

const Count = z.int().min(0);

/** What an attempt did over its network, counted by its host. */
export const EgressUsage = z.strictObject({
  /** From the function, and to it; what connections carried, without headers. */
  sentBytes: Count,
  receivedBytes: Count,
  /** That were made. */
  connections: Count,
  /** Connections and names that were not allowed. */
  refused: Count,
  /** Its bytes were used up, and it had no network from then on. */
  limited: z.boolean(),
});
export type EgressUsage = z.infer<typeof EgressUsage>;
