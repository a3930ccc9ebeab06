/** A range of IPv4 addresses: those whose first `prefix` bits are those of `base`. */
export interface Ipv4Subnet {
  /** 32 bits, without a sign; the bits after the prefix are zero. */
  readonly base: number;
  readonly prefix: number;
}

/** Of IPv4, what is not one host on the public internet. */
export const NOT_PUBLIC_V4: readonly string[] = [
  '0.0.0.0/8', // this network
  '10.0.0.0/8', // private
  '100.64.0.0/10', // behind a carrier's address translation
  '127.0.0.0/8', // loopback
  '169.254.0.0/16', // link-local; the metadata services of clouds
  '172.16.0.0/12', // private
  '192.0.0.0/24', // protocol assignments
  '192.0.2.0/24', // documentation
  '192.88.99.0/24', // 6to4 relays
  '192.168.0.0/16', // private
  '198.18.0.0/15', // benchmarks
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, broadcast
];

/** Of IPv6 only `2000::/3` is given to hosts; inside of it, what leads to an IPv4 address or to nobody. */
const PUBLIC_V6 = '2000::/3';
const NOT_PUBLIC_V6 = [
  '2001::/23', // protocol assignments; Teredo, which carries IPv4
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4, which carries IPv4
  '3fff::/20', // documentation
];

/** Four decimal numbers, as 32 bits without a sign; null for anything else, also for what C libraries take as well. */
export function parseIpv4(text: string): number | null {
  const match = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/.exec(text);
  if (match === null) return null;
  const parts = match.slice(1).map(Number);
  if (parts.some((part) => part > 255)) return null;
  return parts.reduce((sum, part) => sum * 256 + part, 0);
}

export function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((bits) => (address >>> bits) & 0xff).join('.');
}

/** `ADDRESS/PREFIX`, or an address alone; null for anything else, also where bits after the prefix are set. */
export function parseIpv4Subnet(text: string): Ipv4Subnet | null {
  const match = /^([\d.]+)(?:\/(0|[1-9]|[12]\d|3[0-2]))?$/.exec(text);
  const base = match === null ? null : parseIpv4(match[1]!);
  if (base === null) return null;
  const prefix = Number(match![2] ?? 32);
  return head(base, prefix) === base ? { base, prefix } : null;
}

export function isWithin({ base, prefix }: Ipv4Subnet, address: number): boolean {
  return head(address, prefix) === base;
}

/** The address with the bits after the prefix cleared. A shift by 32 would be none. */
const head = (address: number, prefix: number): number => (prefix === 0 ? 0 : (address & (-1 << (32 - prefix))) >>> 0);

const notPublicV4 = NOT_PUBLIC_V4.map((text) => parseIpv4Subnet(text)!);

/** Whether 32 bits are the address of one host on the public internet. */
export function isPublicIpv4(address: number): boolean {
  return !notPublicV4.some((subnet) => isWithin(subnet, address));
}

/** Whether no address of it is one host on the public internet. */
export function isSpecialSubnet({ base, prefix }: Ipv4Subnet): boolean {
  return notPublicV4.some((special) => special.prefix <= prefix && isWithin(special, base));
}

/** The eight groups of an IPv6 address without a zone as 128 bits; null for anything else. */
function parseIpv6(text: string): bigint | null {
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const [front, back] = halves.map((half) => (half === '' ? [] : half.split(':')).flatMap(groupsOf));
  const groups = [...front!, ...(back ?? [])];
  if (groups.some((group) => !/^[0-9a-f]{1,4}$/i.test(group))) return null;
  if (back === undefined ? groups.length !== 8 : groups.length > 7) return null;
  const zeros = Array<string>(8 - groups.length).fill('0');
  return [...front!, ...zeros, ...(back ?? [])].reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
}

/** An IPv4 address stands for two groups. Where it stands does not matter here: no public address is written so. */
function groupsOf(part: string): string[] {
  const v4 = parseIpv4(part);
  return v4 === null ? [part] : [(v4 >>> 16).toString(16), (v4 & 0xffff).toString(16)];
}

function v6Subnet(text: string): (address: bigint) => boolean {
  const [base, prefix] = text.split('/');
  const drop = BigInt(128 - Number(prefix));
  const wanted = parseIpv6(base!)! >> drop;
  return (address) => address >> drop === wanted;
}

const isPublicV6 = v6Subnet(PUBLIC_V6);
const notPublicV6 = NOT_PUBLIC_V6.map(v6Subnet);

/**
 * Whether an address, as text without brackets, is one host on the public internet. IPv4 in IPv6 (mapped, compatible, NAT64, 6to4, Teredo) is not:
 * who means an IPv4 address can say it.
 */
export function isPublicAddress(address: string): boolean {
  const v4 = parseIpv4(address);
  if (v4 !== null) return isPublicIpv4(v4);
  // With a zone it is of one link, and is not parsed.
  const v6 = parseIpv6(address);
  return v6 !== null && isPublicV6(v6) && !notPublicV6.some((within) => within(v6));
}
