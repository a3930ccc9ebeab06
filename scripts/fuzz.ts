/**
 * `npm run fuzz -- --minutes 10 --seed 1`: random and damaged input for every reader of what another trust zone writes, in turns until the time is up.
 * `--target NAME`, given any number of times, chooses; `--from N --cases 1` plays one case again. What is found and is worth keeping goes into the
 * target's corpus in `tests/fuzz`.
 */
import { parseArgs } from 'node:util';
import { openTargets } from '../tests/fuzz/targets.ts';
import { play, tell } from '../tests/fuzz/target.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    cases: { type: 'string', default: 'Infinity' },
    target: { type: 'string', multiple: true },
  },
});

const numberOf = (name: 'minutes' | 'from' | 'cases'): number => {
  const number = Number(values[name]);
  if (number >= 0) return number;
  console.error(`error: --${name} must be a number from 0`);
  process.exit(2);
};
const [from, most] = [numberOf('from'), numberOf('cases')];
const untilMs = performance.now() + numberOf('minutes') * 60_000;
/** Of one target, before it is the next one's turn. */
const TURN = 200;

await using opened = await openTargets(values.target ?? null);
if (opened.targets.length === 0) {
  console.error(`error: there is no such target; the targets are ${opened.names.join(', ')}`);
  process.exit(2);
}
const failed = new Set<string>();
let played = 0;
while (performance.now() < untilMs && played < most) {
  const cases = Math.min(TURN, most - played);
  for (const target of opened.targets.filter(({ name }) => !failed.has(name))) {
    const finding = await play(target, { seed: values.seed, from: from + played, cases, untilMs });
    if (finding === null) continue;
    failed.add(target.name);
    console.log(`✖ ${tell(finding)}`);
  }
  played += cases;
  if (failed.size === opened.targets.length) break;
}
for (const error of await opened.finish()) {
  failed.add('the end');
  console.log(`✖ at the end: ${error instanceof Error ? error.message : String(error)}`);
}
const count = opened.targets.length;
console.log(`${played} cases of each of ${count} targets, seed ${values.seed}: ${failed.size} failed`);
process.exitCode = failed.size > 0 ? 1 : 0;
