import { InvalidArgumentError } from 'commander';

const DURATION_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const SIZE_BYTES: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

function parse(text: string, units: Record<string, number>, example: string): number {
  const match = /^(\d+(?:\.\d+)?)([A-Za-z]+)$/.exec(text);
  const unit = match === null || !Object.hasOwn(units, match[2]!) ? undefined : units[match[2]!];
  if (match === null || unit === undefined)
    throw new InvalidArgumentError(`Give a number and a unit, such as ${example}.`);
  return Math.round(Number(match[1]) * unit);
}

/** `500ms`, `30s`, `5m`, `1h` in milliseconds. */
export const durationMs = (text: string): number => parse(text, DURATION_MS, '30s');
/** `512B`, `64KiB`, `10MiB`, `1GiB` in bytes. */
export const sizeBytes = (text: string): number => parse(text, SIZE_BYTES, '10MiB');

export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('Give a whole number.');
  return Number(text);
}

export function port(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) throw new InvalidArgumentError('Give a port from 0 to 65535.');
  return Number(text);
}

/** An option that may be given again. */
export const oneMore = (text: string, before: string[] = []): string[] => [...before, text];

/** Adds one `NAME=value` to those given before. */
export function environment(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Give NAME=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}
