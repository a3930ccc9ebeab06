/**
 * A handler in TypeScript: takes readings of sensors, and returns a summary of each. The types are stripped when it runs; nothing is built.
 *
 * cocore deploy examples/readings && cocore run --event '[{"sensor": "roof", "celsius": 21.5}]' readings
 */
import { mean } from './mean.ts';

interface Reading {
  readonly sensor: string;
  readonly celsius: number;
}

interface Summary {
  readonly readings: number;
  readonly lowest: number;
  readonly highest: number;
  readonly mean: number;
}

interface Context {
  readonly executionId: string;
  remainingMs(): number | null;
}

export default async function summarize(readings: readonly Reading[], context: Context) {
  console.error(`${context.executionId} has ${readings.length} readings`);
  const bySensor = Map.groupBy(readings, ({ sensor }) => sensor);
  const summaries = await Promise.all([...bySensor].map(async ([sensor, of]) => [sensor, await summary(of)] as const));
  return Object.fromEntries(summaries);
}

async function summary(readings: readonly Reading[]): Promise<Summary> {
  const degrees = readings.map(({ celsius }) => celsius);
  if (degrees.some((celsius) => celsius < -273.15)) throw new RangeError('a reading is below absolute zero');
  return {
    readings: degrees.length,
    lowest: Math.min(...degrees),
    highest: Math.max(...degrees),
    mean: await mean(degrees),
  };
}
