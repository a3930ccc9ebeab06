/**
 * `npm run chaos -- --minutes 30 --seed 1`: one round of faults after the other, from that seed on, until the time is up; several at once with
 * `--at-once N`. `--kind KIND`, given any number of times, chooses from these kinds alone; without it seeds take turns between the sets of `plan.ts`. A seed that fails belongs into `tests/faults/seeds.json`.
 */
import { parseArgs } from 'node:util';
import { quantiles } from '../tests/faults/oracle.ts';
import { ALL_KINDS, KIND_SETS, planOf } from '../tests/faults/plan.ts';
import { runRound } from '../tests/faults/round.ts';
import { SANDBOXES } from '../tests/faults/sandboxes.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    'at-once': { type: 'string', default: '1' },
    executions: { type: 'string', default: '500' },
    kind: { type: 'string', multiple: true },
    sandboxes: { type: 'string', default: 'fake' },
  },
});

const numberOf = (name: 'minutes' | 'seed' | 'at-once' | 'executions'): number => {
  const number = Number(values[name]);
  if (Number.isFinite(number) && number > 0) return number;
  console.error(`error: --${name} must be a number above 0`);
  process.exit(2);
};
const kinds = values.kind?.map((kind) => {
  const known = ALL_KINDS.find((one) => one === kind);
  if (known !== undefined) return known;
  console.error(`error: there is no fault ${kind}; the kinds are ${ALL_KINDS.join(', ')}`);
  process.exit(2);
});

const sandboxes = SANDBOXES.find((one) => one === values.sandboxes);
if (sandboxes === undefined) {
  console.error(`error: --sandboxes must be one of ${SANDBOXES.join(', ')}`);
  process.exit(2);
}

const sets = Object.values(KIND_SETS);
const kindsOf = (seed: number) => kinds ?? sets[seed % sets.length]!;

const until = performance.now() + numberOf('minutes') * 60_000;
const failed: number[] = [];
const measuresMs = new Map<string, number[]>();
let rounds = 0;
let next = numberOf('seed');

async function lane(): Promise<void> {
  while (performance.now() < until) {
    const seed = next;
    next += 1;
    const plan = planOf(seed, { executions: numberOf('executions'), kinds: kindsOf(seed) });
    const { verdict, text } = await runRound(plan, sandboxes);
    rounds += 1;
    for (const [what, values] of Object.entries(verdict.measuresMs)) {
      measuresMs.set(what, [...(measuresMs.get(what) ?? []), ...values]);
    }
    if (verdict.violations.length > 0) failed.push(seed);
    console.log(`\n${text}`);
  }
}

await Promise.all(Array.from({ length: numberOf('at-once') }, lane));
console.log('');
for (const [what, values] of measuresMs) console.log(`${what.padEnd(46)}${quantiles(values)}`);
console.log(`${rounds} rounds, ${failed.length} failed${failed.length === 0 ? '' : `: seeds ${failed.join(', ')}`}`);
process.exitCode = failed.length > 0 ? 1 : 0;
