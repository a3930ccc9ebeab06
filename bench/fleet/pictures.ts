import type { FleetResult } from './simulation.ts';

/** Pictures of a run, as SVG. */

const WIDTH = 900;
const HEIGHT = 320;
const MARGIN = { left: 70, right: 70, top: 30, bottom: 40 };
const [INNER_WIDTH, INNER_HEIGHT] = [WIDTH - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];

const x = (share: number) => (MARGIN.left + share * INNER_WIDTH).toFixed(1);
const y = (share: number) => (MARGIN.top + (1 - share) * INNER_HEIGHT).toFixed(1);

/** CPUs of workers that are online and that are used, and what waits, over the simulated time. */
export function fleetPicture({ samples }: FleetResult): string {
  const mostCpus = Math.max(1, ...samples.map(({ onlineCpus }) => onlineCpus));
  const mostQueued = Math.max(1, ...samples.map(({ queued }) => queued));
  const line = (color: string, values: readonly number[], most: number) => {
    const points = values.map((value, at) => `${x(at / Math.max(1, values.length - 1))},${y(value / most)}`);
    return `<polyline fill="none" stroke="${color}" stroke-width="1.5" points="${points.join(' ')}"/>`;
  };
  const minutes = Math.round((samples.at(-1)?.atMs ?? 0) / 60_000);
  return picture('The fleet over time', [
    line(
      '#999',
      samples.map(({ onlineCpus }) => onlineCpus),
      mostCpus,
    ),
    line(
      '#1f77b4',
      samples.map(({ usedCpus }) => usedCpus),
      mostCpus,
    ),
    line(
      '#d62728',
      samples.map(({ queued }) => queued),
      mostQueued,
    ),
    label(x(0), y(1.04), `${mostCpus} CPUs online (grey), used (blue)`, 'start'),
    label(x(1), y(1.04), `${mostQueued} waiting (red)`, 'end'),
    label(x(0.5), y(-0.12), `${minutes} simulated minutes`, 'middle'),
  ]);
}

/** Median and 99th percentile of the waiting time of each tenant, the hungriest first; seconds, by powers of ten. */
export function waitsPicture({ tenants }: FleetResult): string {
  const [least, most] = [0.01, 1_000];
  const height = (seconds: number) =>
    Math.min(1, Math.max(0, Math.log10(Math.max(seconds, least) / least) / Math.log10(most / least)));
  const sorted = [...tenants].sort((one, other) => other.asked - one.asked);
  const wide = INNER_WIDTH / sorted.length;
  const bars = sorted.flatMap(({ waitsMs }, at) => {
    const inOrder = [...waitsMs].sort((one, other) => one - other);
    const of = (share: number) =>
      (inOrder[Math.min(inOrder.length - 1, Math.floor(share * inOrder.length))] ?? 0) / 1e3;
    const bar = (value: number, color: string, part: number) => {
      const tall = height(value) * INNER_HEIGHT;
      const left = MARGIN.left + at * wide + wide * 0.5 * part;
      return `<rect x="${left.toFixed(1)}" y="${(HEIGHT - MARGIN.bottom - tall).toFixed(1)}" width="${(wide * 0.45).toFixed(1)}" height="${tall.toFixed(1)}" fill="${color}"/>`;
    };
    return [bar(of(0.5), '#1f77b4', 0), bar(of(0.99), '#d62728', 1)];
  });
  const marks = [0.01, 0.1, 1, 10, 100, 1_000].map((seconds) =>
    label(String(MARGIN.left - 8), y(height(seconds)), `${seconds} s`, 'end'),
  );
  const title = 'Waiting time of each tenant, the hungriest first: median (blue), 99th percentile (red)';
  return picture(title, [...bars, ...marks]);
}

/** How many decisions took how long, by powers of two microseconds. */
export function decisionsPicture({ decisionsUs }: FleetResult): string {
  const counts = new Array<number>(16).fill(0);
  for (const us of decisionsUs) {
    const at = Math.min(counts.length - 1, Math.max(0, Math.floor(Math.log2(us))));
    counts[at] = (counts[at] ?? 0) + 1;
  }
  const most = Math.max(1, ...counts);
  const wide = INNER_WIDTH / counts.length;
  const bars = counts.flatMap((count, at) => {
    const tall = (count / most) * INNER_HEIGHT;
    const left = MARGIN.left + at * wide;
    return [
      `<rect x="${left.toFixed(1)}" y="${(HEIGHT - MARGIN.bottom - tall).toFixed(1)}" width="${(wide * 0.9).toFixed(1)}" height="${tall.toFixed(1)}" fill="#1f77b4"/>`,
      label((left + wide / 2).toFixed(1), y(-0.08), `${2 ** at}`, 'middle'),
    ];
  });
  return picture('Decisions by the microseconds that they took (each bar up to twice its number)', bars);
}

const label = (left: string, top: string, text: string, anchor: 'start' | 'middle' | 'end') =>
  `<text x="${left}" y="${top}" text-anchor="${anchor}">${text}</text>`;

function picture(title: string, parts: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    `<text x="${WIDTH / 2}" y="16" text-anchor="middle" font-size="13">${title}</text>`,
    ...parts,
    '</svg>\n',
  ].join('\n');
}
