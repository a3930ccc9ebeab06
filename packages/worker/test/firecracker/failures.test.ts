import assert from 'node:assert/strict';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { boot } from '../../src/execution/boot.ts';
import type { GuestListener } from '../../src/guest/channel.ts';
import type { FirecrackerDriverOptions } from '../../src/sandbox/firecracker/firecracker-driver.ts';
import { trialBoot } from '../../src/sandbox/firecracker/trial-boot.ts';
import type { SandboxNetwork } from '../../src/sandbox/driver.ts';
import { UidPool } from '../../src/sandbox/uid-pool.ts';
import { firecrackerSkip, type FirecrackerTarget, firecrackerTarget, isReal } from '../support/firecracker-target.ts';
import { silent } from '../support/run-program.ts';

const skip = firecrackerSkip() || (isReal ? 'these faults are the double’s' : false);
const tag = `fcfault${process.pid}`;

const unheard: GuestListener = {
  started: () => assert.fail('nothing was to start'),
  output: () => assert.fail('nothing was to be said'),
  ended: () => assert.fail('nothing was to end'),
  failed: () => undefined,
};

const specOf = ({ imagePath, codePath }: FirecrackerTarget, of: object = {}) => ({
  ...{ name: 'faulty', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath },
  ...of,
});

const never = () => new AbortController().signal;

/** There is one user id only: a start that kept it would keep the next from starting. */
const oneId = (): Partial<FirecrackerDriverOptions> => ({ uids: new UidPool(290_000 + (process.pid % 5_000), 1) });

/** Starts twice, and asserts that it fails both times with what `expected` says, leaving nothing. */
async function assertFails(target: FirecrackerTarget, expected: RegExp, of: object = {}): Promise<void> {
  await target.driver.prepare();
  for (const time of ['first', 'second']) {
    await assert.rejects(target.driver.start(specOf(target, of), never()), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'host_unfit');
      assert.match(error.message, expected, `${time}: ${error.message}`);
      return true;
    });
    assert.deepEqual(await target.leftovers(), [], time);
  }
}

describe('Firecracker that does not start a machine', { skip }, () => {
  const faults: [string, string, RegExp, Partial<FirecrackerDriverOptions>][] = [
    [
      'a monitor whose socket never appears',
      'no-socket',
      /there is no API socket within 2000 ms/,
      { apiDeadlineMs: 2_000 },
    ],
    [
      'a request that is refused',
      'refuse-vsock',
      /refused PUT \/vsock with 400: Vsock config error: Cannot create backend/,
      {},
    ],
    [
      'a monitor that cannot start the machine',
      'error-at-start',
      /refused PUT \/actions with 500: Internal VMM error: KVM/,
      {},
    ],
    ['a monitor that dies when it is to start', 'die-at-start', /the monitor ended \(exit code 148\)/, {}],
    [
      'a monitor that does not answer',
      'no-answer',
      /not answer PUT \/actions: not within 1500 ms/,
      { callDeadlineMs: 1_500 },
    ],
  ];
  for (const [what, fault, expected, options] of faults) {
    test(`${what}, the start fails, says why, and leaves nothing`, async () => {
      await using target = await firecrackerTarget(tag, { fault, options: { ...oneId(), ...options } });
      await assertFails(target, expected);
    });
  }

  test('a jailer that refuses, its last word is in the error', async () => {
    await using target = await firecrackerTarget(tag, { options: oneId() });
    const jailer = join(target.path, 'jailer');
    const version = '[ "$1" = --version ] && { echo "Jailer v1.16.1"; exit; }';
    await writeFile(jailer, `#!/bin/sh\n${version}\necho 'Failed to open /dev/kvm' >&2; exit 1\n`);
    await chmod(jailer, 0o755);
    const firecracker = target.tools.firecracker;
    await using other = await firecrackerTarget(tag, { options: { ...oneId(), tools: { firecracker, jailer } } });
    await assertFails(other, /the monitor ended \(exit code 1\); it said last: Failed to open \/dev\/kvm/);
  });

  test('a file that is not there, the launcher says which', async () => {
    await using target = await firecrackerTarget(tag, { options: oneId() });
    await assertFails(
      target,
      /the monitor ended \(exit code 66\); it said last: launch\.sh: .*no-such-code is not there/,
      {
        codePath: join(target.path, 'no-such-code'),
      },
    );
  });

  test('a network without the tap, the start fails, says so in Firecracker’s words, and leaves nothing', async () => {
    await using target = await firecrackerTarget(tag, { options: oneId() });
    const namespacePath = `/proc/${process.pid}/ns/net`;
    const network: SandboxNetwork = {
      attach: () => Promise.resolve({ namespacePath, [Symbol.asyncDispose]: () => Promise.resolve() }),
    };
    const expected =
      /refused PUT \/network-interfaces\/network with 400: .*Operation not permitted \(os error 1\).* provided by gate0/;
    await assertFails(target, expected, { network });
  });

  test('a start that is aborted at any step, its reason is told and nothing is left', async () => {
    await using target = await firecrackerTarget(tag, { fault: 'no-answer', options: oneId() });
    await target.driver.prepare();
    for (const afterMs of [0, 5, 50, 300, 1_500]) {
      const signal = AbortSignal.timeout(afterMs);
      await assert.rejects(target.driver.start(specOf(target), signal), { name: 'TimeoutError' });
      assert.deepEqual(await target.leftovers(), [], `aborted after ${afterMs} ms`);
    }
  });
});

describe('a trial boot', { skip }, () => {
  test('a guest that hangs, it is a failed check with nothing left', async () => {
    await using target = await firecrackerTarget(tag, { fault: 'no-boot', options: oneId() });
    await target.driver.prepare();
    const check = await trialBoot(target.driver, specOf(target), 8_000);
    assert.equal(check.ok, false);
    assert.match(check.reason, /no guest answers within 8000 ms/);
    assert.deepEqual(await target.leftovers(), []);
  });

  test('a monitor that cannot use KVM, it is a failed check that says so', async () => {
    await using target = await firecrackerTarget(tag, { fault: 'error-at-start', options: oneId() });
    await target.driver.prepare();
    const check = await trialBoot(target.driver, specOf(target), 60_000);
    assert.match(check.reason, /Internal VMM error: KVM/);
    assert.ok(check.remedy !== null && !check.ok);
    assert.deepEqual(await target.leftovers(), []);
  });

  test('a guest that boots, the check says how fast', async () => {
    await using target = await firecrackerTarget(tag, { options: oneId() });
    await target.driver.prepare();
    const check = await trialBoot(target.driver, specOf(target), 60_000);
    assert.ok(check.ok, check.reason);
    assert.match(check.reason, /its agent answered after \d+ ms/);
    assert.deepEqual(await target.leftovers(), []);
  });
});

describe('a Firecracker machine that does not boot', { skip }, () => {
  const parts = (target: FirecrackerTarget, retries: number[]) => ({
    driver: target.driver,
    log: silent,
    onBootRetry: () => void retries.push(1),
  });

  const machines: [string, string, RegExp][] = [
    ['whose monitor ends after the start', 'end-after-start', /did not become ready/],
    ['that hangs', 'no-boot', /did not become ready: its agent did not answer within 2500 ms/],
  ];
  for (const [what, fault, expected] of machines) {
    test(`${what}, it is started once more, then it is a clear failure with nothing left`, async () => {
      const options = { ...oneId(), bootDeadlineMs: 2_500 };
      await using target = await firecrackerTarget(tag, { fault, options });
      await target.driver.prepare();
      const retries: number[] = [];
      await assert.rejects(boot(specOf(target), unheard, never(), parts(target, retries)), {
        code: 'host_unfit',
        message: expected,
      });
      assert.equal(retries.length, 1);
      assert.deepEqual(await target.leftovers(), []);
    });
  }
});
