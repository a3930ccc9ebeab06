import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ofStreams } from '@cocore/protocol';
import { openCgroups } from '../src/cgroup/open.ts';
import { GuestChannel } from '../src/guest/channel.ts';
import { stdinOfBytes } from '../src/guest/stdin.ts';
import { markOf, userIdsOf } from '../src/host/process.ts';
import type { SandboxHandle } from '../src/sandbox/driver.ts';
import { OutlivingState } from '../src/sandbox/outliving.ts';
import { UidPool } from '../src/sandbox/uid-pool.ts';
import type { DriverTarget } from './driver.conformance.ts';
import type { Held } from './support/hold-outliving.ts';
import { eventually } from './support/workspace.ts';

const HOLDER = fileURLToPath(new URL('support/hold-outliving.ts', import.meta.url));

/** What the daemon's death by SIGKILL leaves, of a driver whose sandboxes can outlive it. `makeTarget` makes the next life. */
export function outlivingConformance(
  driver: 'firecracker' | 'qemu',
  tag: string,
  makeTarget: (runDir: string) => Promise<DriverTarget>,
): void {
  const mine = async () => (await (await openCgroups()).list()).filter((one) => one.startsWith(`${tag}.`));

  const alive = (pids: readonly number[]) => pids.filter((pid) => markOf(pid) !== null);

  /** What a daemon held that is dead by now. */
  async function hold(): Promise<Held> {
    const child = spawn(process.execPath, [HOLDER, driver, tag], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = new Promise((resolve) => child.once('exit', resolve));
    const line = await Promise.race([
      new Promise<string>((resolve) => createInterface({ input: child.stdout }).once('line', resolve)),
      exited.then(() => assert.fail('the holder ended early')),
    ]);
    child.kill('SIGKILL');
    await exited;
    return JSON.parse(line) as Held;
  }

  describe(`a daemon killed with SIGKILL, with sandboxes of ${driver}`, () => {
    let held: Held;
    before(async () => {
      held = await hold();
    });
    after(() => rm(held.path, { recursive: true, force: true }));

    test('what waited for a function dies with it', async () => {
      assert.ok(held.pids.waiting.length >= 2);
      await eventually('it is gone', () => alive(held.pids.waiting).length === 0, 5_000);
    });

    test('what runs one lives, and nobody gets its user id; the next life spares it alone, and goes on with it', async () => {
      const { handle, usage } = held;
      const { uid, process } = OutlivingState.parse(handle.state);
      assert.ok(markOf(process.pid) !== null);
      assert.ok(await new UidPool().isTaken(uid), 'its id is held without its daemon');
      await using target = await makeTarget(held.runDir);
      await target.driver.prepare([handle, { ...handle, name: '../../../tmp' }]);
      assert.deepEqual(await mine(), [`${tag}.kept`]);
      const sandbox = await target.driver.recover(handle);
      assert.ok(sandbox !== null);
      await using _sandbox = sandbox;
      const said: string[] = [];
      const ended = Promise.withResolvers<unknown>();
      using channel = new GuestChannel(sandbox.agent, {
        started: () => undefined,
        output: (stream, data) => said.push(`${stream === 'artifacts' ? stream : Buffer.from(data).toString()}`),
        ended: (frame) => ended.resolve(frame.type === 'EXIT' ? frame.code : frame),
        failed: (failure) => ended.resolve(failure),
      });
      await channel.takeUp();
      channel.resume(stdinOfBytes(new Uint8Array(0)), 2_000_000, { ...ofStreams(() => 0), stdout: 6 });
      assert.equal(await ended.promise, 7);
      assert.equal(said.join(''), 'second\nthird\nartifacts');
      const now = await sandbox.usage();
      assert.ok(now.cpuMs! > usage.cpuMs! && now.wallMs! > usage.wallMs! + 1_000, JSON.stringify([usage, now]));
      channel.powerOff();
      await sandbox.exited;
      await sandbox.destroy();
      assert.deepEqual(await target.leftovers(), []);
      assert.equal(await new UidPool().isTaken(uid), false);
      assert.equal(await target.driver.recover(handle), null, 'it is taken up once');
    });
  });

  test(
    `a daemon of ${driver} that is killed for good, and a machine that does not end itself: the host ends it`,
    { skip: process.env['COCORE_TEST_WHOLE'] === undefined ? 'it takes 30 s: where COCORE_TEST_WHOLE is set' : false },
    async () => {
      const held = await hold();
      // All but what is root's: the machine does not know how the time passes.
      const { uid } = OutlivingState.parse(held.handle.state);
      const stopped = held.pids.kept.filter((pid) => userIdsOf([pid])[0] === uid);
      assert.ok(stopped.length > 0);
      for (const pid of stopped) process.kill(pid, 'SIGSTOP');
      const beganMs = performance.now();
      await eventually('it is gone', () => alive(held.pids.kept).length === 0, 60_000);
      assert.ok(performance.now() - beganMs > 20_000, 'a daemon that came would have found it');
      await using target = await makeTarget(held.runDir);
      await target.driver.prepare([held.handle]);
      assert.equal(await target.driver.recover(held.handle), null);
      assert.deepEqual(await target.leftovers(), []);
      await rm(held.path, { recursive: true, force: true });
    },
  );

  test(`a handle of ${driver} that is not what it says, nothing is taken up and nothing is left`, async () => {
    await using target = await makeTarget('');
    const group = await (await openCgroups()).create(`${tag}.claimed`);
    await using _group = { [Symbol.asyncDispose]: () => group.remove() };
    const state = { process: markOf(process.pid), uid: 200_000, beganMs: 0, cpuMsBefore: 0 };
    const handle: SandboxHandle = { version: 1, driver, name: 'claimed', state };
    await target.driver.prepare([handle]);
    assert.deepEqual(await mine(), [`${tag}.claimed`]);
    assert.equal(await target.driver.recover(handle), null);
    assert.deepEqual(await mine(), []);
  });
}
