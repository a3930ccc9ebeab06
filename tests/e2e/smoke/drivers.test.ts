import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { doubleSkip } from '../../firecracker-double/place.ts';
import { FIRECRACKER } from '../support/firecracker.ts';
import { Stack } from '../support/stack.ts';
import { until } from '../support/wait.ts';

interface Driver {
  readonly name: string;
  readonly isolation: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly skip?: string | false;
}

/** What the whole suite does not run on by itself, each as users would start it. */
const DRIVERS: readonly Driver[] = [
  { name: 'crun', isolation: 'container' },
  {
    name: 'firecracker',
    isolation: 'microvm',
    env: FIRECRACKER,
    skip: Object.keys(FIRECRACKER).length === 0 ? false : doubleSkip(),
  },
  // With sandboxes that wait, which the suite leaves out because it counts.
  { name: 'qemu', isolation: 'emulated', args: ['--pool', 'auto'] },
];

describe('the main job in short', () => {
  for (const { name, isolation, args = [], env = {}, skip = false } of DRIVERS) {
    test(`on ${name}, functions run, and one that is cancelled is gone`, { skip }, async () => {
      await using stack = await Stack.on({ ...env }, '--isolation', name, ...args);
      await stack.cocore(['deploy', 'examples/add.py', '--name', 'add']);
      for (const [one, other] of [
        [4, 9],
        [20, 22],
      ] as const) {
        const ran = await stack.cocore(['run', 'add', String(one), String(other)]);
        assert.equal(ran.stdout.toString(), `${one + other}\n`, ran.stderr);
      }
      const { executions } = await stack.client.executions.list({ function: 'add', limit: 1 });
      assert.deepEqual([executions[0]!.attempts[0]!.driver, executions[0]!.attempts[0]!.isolation], [name, isolation]);

      await stack.deploy('forever', 'bash', 'echo up; sleep 600');
      const { id } = await stack.client.executions.create('forever', {});
      await until('it runs', async () => (await stack.client.executions.get(id)).output.stdout.bytes > 0);
      await stack.client.executions.cancel(id);
      assert.equal((await stack.client.executions.get(id, { waitMs: 20_000 })).state, 'cancelled');
      await until('its sandbox is gone', () => stack.sandboxes().length === 0, 5_000);
    });
  }
});
