/**
 * `npm run simulate -- --seeds 1000 --from 1`: one scenario after the other in a world whose time is a queue of events. `--trace` shows what happens in it.
 * A seed that fails belongs into `tests/simulation/seeds.json`.
 */
import { parseArgs } from 'node:util';
import { describe, scenarioOf } from '../tests/simulation/scenario.ts';
import { simulate } from '../tests/simulation/simulate.ts';
import { virtualTime } from '../tests/simulation/virtual-time.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false },
  },
});
const [count, from] = [Number(values.seeds), Number(values.from)];
if (!Number.isInteger(count) || !Number.isInteger(from) || count < 1) {
  console.error('error: --seeds and --from must be whole numbers, and --seeds at least 1');
  process.exit(2);
}

using time = virtualTime();
const failed: number[] = [];
let [events, virtualMs] = [0, 0];
const beganMs = performance.now();
for (let seed = from; seed < from + count; seed += 1) {
  const scenario = scenarioOf(seed);
  const outcome = await simulate(scenario, time, { log: values.trace ? (line) => console.log(line) : null });
  events += outcome.events;
  virtualMs += outcome.virtualMs;
  if (outcome.violations.length === 0) continue;
  failed.push(seed);
  console.log(`seed ${seed}${scenario.isMild ? '' : ' (harsh)'}: ${scenario.faults.map(describe).join('; ')}`);
  for (const violation of outcome.violations) console.log(`  ✖ ${violation}`);
}
const seconds = (performance.now() - beganMs) / 1000;
console.log(
  `${count} seeds, ${(virtualMs / 3_600_000).toFixed(1)} hours in ${seconds.toFixed(1)} s, ${Math.round(events / seconds)} events/s`,
);
console.log(`${count - failed.length} passed, ${failed.length} failed`);
process.exitCode = failed.length > 0 ? 1 : 0;
