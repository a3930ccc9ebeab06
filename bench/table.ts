/** What the benches print: medians and ratios, in columns. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

export const row = (name: string, ...values: string[]): void =>
  console.log(`${name.padEnd(48)}${values.map((value) => value.padStart(14)).join('')}`);

export const ms = (value: number): string => `${value.toFixed(1)} ms`;
/** How many times as long (or as short). */
export const ratio = (one: number, other: number): string =>
  one >= other ? `${(one / other).toFixed(2)} × longer` : `${(other / one).toFixed(2)} × faster`;
