import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stack } from '../support/stack.ts';

test('cocore worker drain, the worker finishes what it has, gets nothing more, and is shown so until undrain', async () => {
  await using stack = await Stack.dev('--isolation', 'fake');
  await stack.deploy('play', 'bash', ':');
  const [worker] = await stack.client.workers.list();
  const { id } = worker!;
  const running = await stack.client.executions.create('play', { args: ['sleep:1500', 'out:done'] });
  const drained = await stack.cocore(['worker', 'drain', id, '--wait']);
  assert.equal(drained.code, 0, drained.stderr);
  assert.match(drained.stdout.toString(), new RegExp(`^${id} \\(.*\\) is drained\n$`));
  assert.equal((await stack.client.executions.get(running.id)).state, 'success');
  assert.match((await stack.cocore(['workers'])).stdout.toString(), /online \(drained\)/);
  const { id: waiting } = await stack.client.executions.create('play', {});
  const again = await stack.cocore(['worker', 'undrain', id]);
  assert.match(again.stdout.toString(), /takes work/);
  assert.equal((await stack.client.executions.get(waiting, { waitMs: 30_000 })).state, 'success');
  const unknown = await stack.cocore(['worker', 'drain', 'wk_00000000000000000000000000']);
  assert.deepEqual([unknown.code, unknown.stderr.split(':')[0]], [2, 'error worker_not_found']);
});
