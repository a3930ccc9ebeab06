import { CocoreError } from '@cocore/protocol';

const DURATION_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const SIZE_BYTES: Readonly<Record<string, number>> = { MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

/** `90s`, `30m`, `24h`, `30d` in milliseconds. @throws CocoreError `usage`, naming the flag */
export function durationMs(text: string, flag: string): number {
  const match = /^(\d{1,6})([smhd])$/.exec(text);
  if (match !== null && Number(match[1]) > 0) return Number(match[1]) * DURATION_MS[match[2]!]!;
  throw new CocoreError('usage', `${flag} ${text} is not a duration such as 24h`);
}

/** `500MiB`, `10GiB`, `2TiB` in bytes. @throws CocoreError `usage`, naming the flag */
export function sizeBytes(text: string, flag: string): number {
  const match = /^(\d{1,6})([MGT]iB)$/.exec(text);
  if (match !== null && Number(match[1]) > 0) return Number(match[1]) * SIZE_BYTES[match[2]!]!;
  throw new CocoreError('usage', `${flag} ${text} is not a size such as 10GiB`);
}
