import type { Random } from '../faults/random.ts';

/** JSON text that is written as it stands: what no value becomes. */
class Raw {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

const nested = (levels: number, open: string, close: string) => new Raw(open.repeat(levels) + close.repeat(levels));

const NAMES = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length', 'type', 'then', '', '\0', 'more'];
const TEXTS = [
  '',
  ' ',
  '\0',
  'a\0b',
  '.',
  '..',
  '/',
  '../..',
  '\ud800',
  '\udfff\ud800',
  '😀',
  '\u202e',
  '%00',
  '\n',
  '{}',
];
const NUMBERS = [0, -0, -1, 1, 0.5, 255, 256, 65_535, 65_536, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 1e308, 5e-324];
const RAWS = [
  new Raw('1e999'),
  new Raw('-0'),
  new Raw('-1e-999'),
  new Raw('"\\ud800"'),
  new Raw('NaN'),
  new Raw('01'),
  new Raw(`1${'0'.repeat(400)}`),
  new Raw('{"a":1,"a":2}'),
];

function hostileValue(random: Random): unknown {
  switch (random.int(0, 9)) {
    case 0:
      return random.pick([null, true, false]);
    case 1:
    case 2:
      return random.pick(NUMBERS);
    case 3:
    case 4:
      return random.pick(TEXTS);
    case 5:
      return random.pick('aZ0\u00e9 \\"'.split('')).repeat(random.pick([2, 64, 129, 300, 5000, 70_000]));
    case 6:
      return random.pick(RAWS);
    case 7:
      return random.pick<unknown>([[], {}, [null], [[]], [{}], { toString: 1, valueOf: 1 }, { length: 2 ** 32 }]);
    case 8: {
      const [open, close] = random.pick([
        ['[', ']'],
        ['{"a":', '1}'],
      ] as const);
      return nested(random.pick([2, 40, 260, 4000]), open, close);
    }
    default:
      return Object.fromEntries([[random.pick(NAMES), random.pick(TEXTS)]]);
  }
}

/** A value of a random shape, small. */
export function randomValue(random: Random, levels = 3): unknown {
  if (levels === 0 || random.chance(0.4)) return hostileValue(random);
  const count = random.int(0, 4);
  if (random.chance(0.5)) return Array.from({ length: count }, () => randomValue(random, levels - 1));
  return Object.fromEntries(
    Array.from({ length: count }, () => [random.pick(NAMES), randomValue(random, levels - 1)] as const),
  );
}

type Container = unknown[] | Record<string, unknown>;
type Slot = readonly [Container, string | number];

const isContainer = (value: unknown): value is Container =>
  typeof value === 'object' && value !== null && !(value instanceof Raw);

function slotsOf(container: Container): Slot[] {
  const keys = Array.isArray(container) ? [...container.keys()] : Object.keys(container);
  return keys.flatMap((key) => {
    const value = (container as Record<string, unknown>)[key];
    return [[container, key] as const, ...(isContainer(value) ? slotsOf(value) : [])];
  });
}

/** Own, whatever its name. */
function put(container: Container, key: string | number, value: unknown): void {
  Object.defineProperty(container, key, { value, enumerable: true, configurable: true, writable: true });
}

/** Another value, like this one but for a few places. */
export function mutateValue(random: Random, example: unknown): unknown {
  const root = [structuredClone(example)];
  for (
    let left = random.weighted([
      [6, 1],
      [3, 2],
      [1, 5],
    ] as const);
    left > 0;
    left -= 1
  ) {
    // prettier-ignore
    const slots = slotsOf(root);
    if (slots.length === 0) break;
    changeSlot(random, random.pick(slots), slots);
  }
  return root[0];
}

function changeSlot(random: Random, [container, key]: Slot, slots: readonly Slot[]): void {
  const value = (container as Record<string, unknown>)[key];
  switch (random.int(0, 6)) {
    case 0:
      if (Array.isArray(container)) container.splice(Number(key), 1);
      else delete container[key];
      return;
    case 1: {
      const [other, at] = random.pick(slots);
      const copied = (other as Record<string, unknown>)[at];
      put(container, key, isContainer(copied) ? structuredCloneOf(copied) : copied);
      return;
    }
    case 2:
      if (Array.isArray(value)) {
        const times = random.pick([2, 20, 300]);
        const item: unknown = value.length === 0 ? null : random.pick(value);
        for (let left = times; left > 0; left -= 1) value.push(item);
      } else if (isContainer(value)) put(value, random.pick(NAMES), hostileValue(random));
      else put(container, key, [value]);
      return;
    case 3:
      if (typeof value === 'string') put(container, key, mutateText(random, value));
      else if (typeof value === 'number') put(container, key, value + random.pick([1, -1, 0.5, value, -2 * value]));
      else put(container, key, randomValue(random));
      return;
    default:
      put(container, key, hostileValue(random));
  }
}

/** A container of this tree may hold `Raw`s, which `structuredClone` would make plain. */
function structuredCloneOf(value: unknown): unknown {
  if (!isContainer(value)) return value;
  if (Array.isArray(value)) return value.map(structuredCloneOf);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, structuredCloneOf(inner)]));
}

export function mutateText(random: Random, text: string): string {
  const [one, other] = [random.int(0, text.length), random.int(0, text.length)];
  const [from, to] = one < other ? [one, other] : [other, one];
  const middle = random.weighted<string>([
    [2, ''],
    [2, random.pick(TEXTS)],
    [2, String.fromCharCode(random.int(0, 0x17f))],
    [1, text.slice(from, to).repeat(random.pick([2, 3, 50]))],
    [1, text.slice(from, to).toUpperCase()],
  ]);
  return text.slice(0, from) + middle + text.slice(random.chance(0.5) ? from : to);
}

/** JSON text of a value, in one of its many spellings. */
export function spell(random: Random, value: unknown): string {
  const [space, escape] = [random.chance(0.2), random.chance(0.3)];
  const gap = () => (space ? random.pick(['', ' ', '\n', '\t\r\n']) : '');
  const quoted = (text: string): string => {
    if (!escape || text.length > 200) return JSON.stringify(text);
    const code = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
    const units = text.split('').map((unit) => (random.chance(0.3) ? code(unit) : JSON.stringify(unit).slice(1, -1)));
    return `"${units.join('')}"`;
  };
  const write = (one: unknown): string => {
    if (one instanceof Raw) return one.text;
    if (typeof one === 'string') return quoted(one);
    if (!isContainer(one)) return JSON.stringify(one) ?? 'null';
    const items = Array.isArray(one)
      ? one.map(write)
      : Object.entries(one).map(([key, inner]) => `${quoted(key)}${gap()}:${gap()}${write(inner)}`);
    const inside = items.join(`,${gap()}`);
    return Array.isArray(one) ? `[${gap()}${inside}]` : `{${gap()}${inside}}`;
  };
  return gap() + write(value) + gap();
}

export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** JSON text: mostly of a changed example, else of anything; sometimes damaged as text. */
export function jsonText(random: Random, examples: readonly unknown[]): string {
  const value = random.chance(0.85) ? mutateValue(random, random.pick(examples)) : randomValue(random);
  const text = spell(random, value);
  return random.chance(0.15) ? mutateText(random, text) : text;
}

/** As `jsonText`, in bytes that need not be UTF-8. */
export function jsonBytes(random: Random, examples: readonly unknown[]): Uint8Array {
  const bytes = bytesOf(jsonText(random, examples));
  return random.chance(0.1) ? mutateBytes(random, bytes) : bytes;
}

const INTERESTING = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x20, 0x2f, 0x30];

/** Other bytes, like these but for a few places. */
export function mutateBytes(random: Random, example: Uint8Array): Uint8Array {
  let bytes: Uint8Array = Uint8Array.from(example);
  for (
    let left = random.weighted([
      [6, 1],
      [3, 3],
      [1, 10],
    ] as const);
    left > 0;
    left -= 1
  ) {
    // prettier-ignore
    bytes = changeBytes(random, bytes);
  }
  return Uint8Array.from(bytes);
}

function changeBytes(random: Random, bytes: Uint8Array): Uint8Array {
  // Headers are at the front.
  const at = Math.floor(bytes.length * random.next() ** 2);
  const end = Math.min(bytes.length, at + random.pick([1, 1, 2, 4, 8, 64, 600]));
  switch (random.int(0, 6)) {
    case 0:
      return bytes.length === 0 ? bytes : bytes.with(at, bytes[at]! ^ (1 << random.int(0, 7)));
    case 1:
      return bytes.length === 0 ? bytes : bytes.with(at, random.pick(INTERESTING));
    case 2:
      return bytes.subarray(0, at);
    case 3:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
    case 4: {
      const again = Array.from({ length: random.pick([1, 2, 40]) }, () => bytes.subarray(at, end));
      return Buffer.concat([bytes.subarray(0, at), ...again, bytes.subarray(at)]);
    }
    case 5: {
      const junk = Uint8Array.from({ length: random.int(1, 12) }, () => random.int(0, 255));
      return Buffer.concat([bytes.subarray(0, at), junk, bytes.subarray(at)]);
    }
    default: {
      if (bytes.length - at < 8) return bytes;
      const copy = Uint8Array.from(bytes);
      const view = new DataView(copy.buffer);
      const big = random.pick([0n, 1n, 0xffff_ffffn, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]);
      if (random.chance(0.5)) view.setBigUint64(at, big, true);
      else view.setUint32(at, Number(BigInt.asUintN(32, big)), true);
      return copy;
    }
  }
}
