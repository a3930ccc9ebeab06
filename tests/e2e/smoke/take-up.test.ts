import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { doubleSkip } from '../../firecracker-double/place.ts';
import { FIRECRACKER } from '../support/firecracker.ts';
import { isSandboxAlive, killSandbox } from '../support/processes.ts';
import { Apart } from '../support/stack.ts';
import { until } from '../support/wait.ts';

const LINES = 20;
const STEPS = `for i in $(seq 1 ${LINES}); do echo "line $i"; sleep 0.2; done; echo '{"lines":${LINES}}' > "$COCORE_RESULT"; exit 7`;
const ALL_LINES = Array.from({ length: LINES }, (_, at) => `line ${at + 1}\n`).join('');
const skip = Object.keys(FIRECRACKER).length === 0 ? false : doubleSkip();

describe('a worker on firecracker that is killed and started again', { skip }, () => {
  let apart: Apart;
  before(async () => {
    apart = await Apart.start({ env: FIRECRACKER, isolation: 'firecracker' });
    await apart.deploy('steps', STEPS);
  });
  after(async () => apart[Symbol.asyncDispose]());

  /** Killed in the middle of a run. */
  const killedAtWork = async () => {
    const { id } = await apart.client.executions.create('steps', {});
    await until('some output is kept', async () => (await apart.client.executions.get(id)).output.stdout.bytes > 20);
    const [sandbox] = apart.sandboxes();
    apart.killWorker();
    return { id, sandbox: sandbox! };
  };
  const ended = async (id: string) => apart.client.executions.get(id, { waitMs: 60_000 });

  test('in the middle of a run, the run goes on: each line is there once, in one attempt', async () => {
    const { id, sandbox } = await killedAtWork();
    await apart.startWorker();
    assert.ok(isSandboxAlive(sandbox), 'its machine has lived on');
    const record = await ended(id);
    assert.equal(await apart.stdout(id), ALL_LINES);
    assert.deepEqual([record.state, record.exitCode, record.attempts.length], ['failure', 7, 1]);
    assert.deepEqual(record.attempts[0]!.outcome, { kind: 'exited', code: 7 });
    await until('its machine is gone', () => !isSandboxAlive(sandbox), 5_000);
  });

  test('and the machine has ended meanwhile, the run is delivered again', async () => {
    const { id, sandbox } = await killedAtWork();
    killSandbox(sandbox);
    await apart.startWorker();
    const record = await ended(id);
    assert.deepEqual(
      record.attempts.map(({ cause, outcome }) => [cause, outcome]),
      [
        ['first', { kind: 'lost', cause: 'host_lost' }],
        ['redelivery', { kind: 'exited', code: 7 }],
      ],
    );
    assert.equal(await apart.stdout(id), ALL_LINES);
  });
});
