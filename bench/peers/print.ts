/** The tables of the comparison: medians of the rounds. */
import { median } from '../table.ts';
import type { Floor } from './floors.ts';
import type { Figures, Measured } from './measure.ts';
import type { Peer } from './peer.ts';

type Figure = Exclude<keyof Figures, 'name'>;

/** What is printed of a system: the figure, its heading, and how many digits come after the point. */
const COLUMNS: readonly (readonly [Figure, string, number])[] = [
  ['enqueuedPerSecond', 'enqueue/s', 0],
  ['manyPerSecond', 'bulk/s', 0],
  ['closedPerSecond', '50 wait/s', 0],
  ['closedP50Ms', 'p50 ms', 1],
  ['closedP99Ms', 'p99 ms', 1],
  ['aloneP50Ms', 'alone p50', 2],
  ['aloneP99Ms', 'alone p99', 2],
  ['closedCpuMs', 'CPU ms', 2],
  ['manyCpuMs', 'bulk CPU', 3],
  ['closedFlushes', 'flushes', 2],
  ['memoryMiB', 'MiB', 0],
];

interface Wish {
  readonly what: string;
  readonly figure: Figure;
  /** Whether more is better. */
  readonly isRate: boolean;
  readonly sqlite: string;
  readonly postgres: string;
}

const WISHES: readonly Wish[] = [
  { what: '50 in flight, each waits', figure: 'closedPerSecond', isRate: true, sqlite: '≥ 3.5', postgres: '≥ 2' },
  { what: 'one at a time, p50', figure: 'aloneP50Ms', isRate: false, sqlite: '≤ 0.6', postgres: '≤ 0.7' },
  { what: 'bulk enqueue and drain', figure: 'manyPerSecond', isRate: true, sqlite: '≥ 1', postgres: '≥ 0.7' },
  { what: 'CPU per execution, 50 in flight', figure: 'closedCpuMs', isRate: false, sqlite: '≤ 0.7', postgres: '≤ 0.5' },
];

const line = (name: string, width: number, ...cells: readonly string[]): void =>
  console.log(`${name.padEnd(width)}${cells.map((cell) => cell.padStart(11)).join('')}`);

function medianOf(measured: readonly Measured[], name: string, figure: Figure): number | null {
  const values = measured.filter((one) => one.name === name).map((one) => one[figure]);
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : median(known);
}

export function printFloors(rounds: readonly (readonly Floor[])[]): void {
  line('floors of this machine', 48, 'a second', 'p50 ms', 'p99 ms');
  for (const [at, { name }] of rounds[0]!.entries()) {
    const of = (figure: 'perSecond' | 'p50Ms' | 'p99Ms') => median(rounds.map((round) => round[at]![figure]));
    line(`  ${name}`, 48, of('perSecond').toFixed(0), of('p50Ms').toFixed(3), of('p99Ms').toFixed(3));
  }
  console.log();
}

export function printSystems(peers: readonly Peer[], measured: readonly Measured[]): void {
  line('system', 20, ...COLUMNS.map(([, heading]) => heading), 'load');
  for (const { name, durability } of peers) {
    const cells = COLUMNS.map(([figure, , digits]) => medianOf(measured, name, figure)?.toFixed(digits) ?? '–');
    const loads = measured.filter((one) => one.name === name).map(({ load }) => load);
    const mark = durability === 'each answer' ? '' : ' (weaker)';
    line(`${name}${mark}`, 20, ...cells, loads.length === 0 ? '–' : median(loads).toFixed(1));
  }
  console.log();
}

/** CoCore beside the best of the peers that are as durable, for each wish. */
export function printRatios(peers: readonly Peer[], measured: readonly Measured[]): void {
  const isOwn = (peer: Peer) => peer.name.startsWith('cocore');
  const durable = peers.filter((peer) => !isOwn(peer) && peer.durability === 'each answer');
  const postgres = durable.filter((peer) => peer.store === 'PostgreSQL');
  for (const own of peers.filter(isOwn)) {
    const beside = own.store === 'PostgreSQL' ? postgres : durable;
    line(`${own.name} beside the best durable peer`, 48, 'ratio', 'wish', 'own', 'best', '');
    for (const { what, figure, isRate, sqlite, postgres: onPostgres } of WISHES) {
      const mine = medianOf(measured, own.name, figure);
      const best = beside
        .map((peer) => ({ name: peer.name, value: medianOf(measured, peer.name, figure) }))
        .filter((one): one is { name: string; value: number } => one.value !== null)
        .sort((one, other) => (isRate ? other.value - one.value : one.value - other.value))[0];
      if (mine === null || best === undefined) continue;
      const digits = isRate ? 0 : 2;
      const wish = own.store === 'PostgreSQL' ? onPostgres : sqlite;
      const cells = [(mine / best.value).toFixed(2), wish, mine.toFixed(digits), best.value.toFixed(digits)];
      line(`  ${what}`, 48, ...cells, `  ${best.name}`);
    }
    console.log();
  }
}
