import { type Outcome, STREAM_WINDOW_BYTES, type TaskSpec } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import type { DriverTarget } from './driver.conformance.ts';
import { MAX_HELD_BYTES, MAX_STALLED_MS, SLACK_MS } from './support/hostile-limits.ts';
import { type AttemptRun, runAttempt } from './support/run-attempt.ts';

interface Deed {
  readonly name: string;
  /** For bash. */
  readonly script: string;
  /** One of these is the end. */
  readonly outcomes: readonly Outcome[];
  readonly task?: Partial<TaskSpec>;
  readonly acknowledges?: boolean;
  readonly withinMs: number;
  /** One of the few that stand for all where another driver has the same agent. */
  readonly isTypical?: boolean;
  readonly also?: (run: AttemptRun) => void;
}

const RUN_MS = 1_500;
const TIMED_OUT: Outcome = { kind: 'timed_out', clock: 'run' };
const exited = (code: number): Outcome => ({ kind: 'exited', code });
const LATE = { outcomes: [TIMED_OUT], task: { runTimeoutMs: RUN_MS }, withinMs: RUN_MS + SLACK_MS };
/** For bash and its children to start, and to write. */
const FLOOD_MS = 3_000;
const INPUT = { base64: randomBytes(1_000_000).toString('base64') };

const DEEDS: readonly Deed[] = [
  {
    ...{ name: 'a flood on both streams that nobody takes, the windows are full and no more', ...LATE },
    script: 'yes 1 & yes 2 >&2',
    task: { runTimeoutMs: FLOOD_MS },
    acknowledges: false,
    also: ({ ended: { stdout, stderr } }) => {
      for (const { bytes } of [stdout, stderr]) assert.ok(bytes > 0 && bytes <= STREAM_WINDOW_BYTES, `${bytes} bytes`);
    },
  },
  {
    ...{ name: 'a flood on both streams of which nothing is kept', ...LATE },
    script: 'yes 1 & yes 2 >&2',
    task: { runTimeoutMs: FLOOD_MS, outputLimitBytes: 0 },
    also: ({ ended: { stdout, stderr } }) => assert.ok(stdout.truncated && stderr.truncated),
  },
  {
    ...{ name: 'input that is never read', ...LATE },
    script: 'sleep 60',
    task: { runTimeoutMs: RUN_MS, stdin: INPUT },
  },
  {
    ...{ name: 'all streams closed, it lives on and its end is told', isTypical: true },
    ...{ script: 'exec <&- >&- 2>&-; sleep 2; exit 7', outcomes: [exited(7)], withinMs: SLACK_MS },
    task: { stdin: INPUT },
    also: ({ ranMs }) => assert.ok(ranMs! > 900, `it ended after ${ranMs} ms`),
  },
  {
    ...{ name: 'a flooding process that it leaves behind, its own end counts', isTypical: true },
    ...{ script: 'yes & yes >&2 & sleep 0.2; exit 3', outcomes: [exited(3)], withinMs: SLACK_MS },
  },
  {
    ...{ name: 'as many processes as it can have', ...LATE },
    script: 'while sleep 60 & do :; done 2>/dev/null',
    outcomes: [TIMED_OUT, { kind: 'oom' }],
  },
  {
    ...{ name: 'everything it can kill is killed, its own end counts', isTypical: true },
    ...{ script: 'sleep 60 & kill -9 -1; echo alive; exit 5', outcomes: [exited(5)], withinMs: SLACK_MS },
    also: ({ ended }) => assert.equal(ended.stdout.bytes, 'alive\n'.length),
  },
  {
    ...{ name: 'signals that it ignores, while it spins', ...LATE },
    script: 'trap "" TERM INT HUP; while :; do :; done',
  },
  { ...{ name: 'itself stopped', ...LATE }, script: 'kill -STOP $$' },
];

export interface DeedOptions {
  /** Why only the typical ones are tried. */
  readonly onlyTypical?: string;
}

/** What a function can do to the daemon that reads and writes its streams: each ends as its row says, and nothing is left. */
export function hostileFunctionConformance(
  name: string,
  makeTarget: () => Promise<DriverTarget>,
  { onlyTypical }: DeedOptions = {},
): void {
  describe(`hostile function, ${name}`, () => {
    let target: DriverTarget;
    before(async () => {
      target = await makeTarget();
      await target.driver.prepare();
    });
    after(() => target[Symbol.asyncDispose]());
    afterEach(async () => {
      assert.deepEqual(await target.leftovers(), [], 'a sandbox left something behind');
    });

    for (const deed of DEEDS) {
      const skip = onlyTypical !== undefined && deed.isTypical !== true ? onlyTypical : false;
      test(deed.name, { skip }, async () => {
        const { driver, imagePath, codePath } = target;
        const { script, task = {}, acknowledges = true, outcomes } = deed;
        const argv = ['/bin/bash', '-c', script];
        const run = await runAttempt({ driver, imagePath, codePath, acknowledges, task: { argv, ...task } });
        const { outcome, message } = run.ended;
        assert.ok(
          outcomes.some((one) => JSON.stringify(one) === JSON.stringify(outcome)),
          `${JSON.stringify(outcome)} ${message}`,
        );
        assert.ok(run.heldBytes < MAX_HELD_BYTES, `it held ${run.heldBytes} bytes`);
        assert.ok(run.stalledMs < MAX_STALLED_MS, `it stood still for ${run.stalledMs} ms`);
        assert.ok(run.ranMs! < deed.withinMs, `it ran for ${run.ranMs} ms`);
        deed.also?.(run);
      });
    }
  });
}
