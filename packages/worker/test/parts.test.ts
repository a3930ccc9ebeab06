import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { ByteWindow } from '../src/execution/byte-window.ts';
import { deadline, uptimeClock } from '../src/host/clock.ts';
import { takeHostLock } from '../src/host/lock.ts';
import { ConsoleRing, lastLine } from '../src/sandbox/console-ring.ts';
import { tscKhzOfCpuinfo, tscKhzOfLog } from '../src/sandbox/qemu/tsc.ts';
import { UidPool } from '../src/sandbox/uid-pool.ts';
import { eventually, workspace } from './support/workspace.ts';

test('a window that is filled and emptied at random, it always holds the right bytes', () => {
  const window = new ByteWindow(10_000);
  const all = Buffer.from(Array.from({ length: 200_000 }, (_, at) => (at * 7 + (at >> 8)) % 256));
  while (window.end < all.length) {
    const room = 10_000 - (window.end - window.start);
    window.push(all.subarray(window.end, window.end + randomInt(0, room + 1)));
    const from = window.start + randomInt(0, window.end - window.start + 1);
    const slice = window.slice(from, 3_000);
    assert.ok(slice.equals(all.subarray(from, Math.min(from + 3_000, window.end))));
    window.forget(window.start + randomInt(0, window.end - window.start + 1));
  }
});

test('more than a window holds, it is refused', () => {
  const window = new ByteWindow(10);
  window.push(Buffer.alloc(10));
  assert.throws(() => window.push(Buffer.alloc(1)), RangeError);
  window.forget(5);
  window.push(Buffer.alloc(5));
  assert.throws(() => window.slice(4, 1), RangeError);
  assert.throws(() => window.forget(16), RangeError);
});

test('a console that says more than its ring holds, the newest is kept and nothing unprintable', () => {
  const ring = new ConsoleRing(10);
  ring.push(Buffer.from('0123456789'));
  ring.push(Buffer.from('abc'));
  assert.equal(ring.text(), '3456789abc');
  ring.push(Buffer.from('a long line that is cut\n\x1b[31m!'));
  assert.equal(ring.text(), 'cut\n.[31m!');
  assert.equal(lastLine('one\ntwo\n\n'), 'two');
  assert.equal(lastLine(''), '');
});

test('the kernel’s words on its counter, the finer calibration is taken', () => {
  const log = `[    0.000065] tsc: Detected 2596.124 MHz processor
[    1.5] tsc: Refined TSC clocksource calibration: 2596.093 MHz
[    2.0] clocksource: tsc: mask: 0xffffffffffffffff`;
  assert.equal(tscKhzOfLog(log), 2_596_093);
  assert.equal(tscKhzOfLog('nothing of it'), null);
});

test('the processor’s description, the nominal rate is taken unless the current one is said to be the counter’s', () => {
  const cpu = (model: string, flags: string) =>
    `model name\t: ${model}\ncpu MHz\t\t: 1197.500\nflags\t\t: fpu ${flags}\n`;
  assert.equal(tscKhzOfCpuinfo(cpu('Intel(R) Xeon(R) CPU @ 2.60GHz', 'tsc')), 2_600_000);
  assert.equal(tscKhzOfCpuinfo(cpu('Intel(R) Xeon(R) CPU @ 2.60GHz', 'tsc_known_freq')), 1_197_500);
  assert.equal(tscKhzOfCpuinfo(cpu('AMD EPYC', 'tsc')), 1_197_500);
  assert.equal(tscKhzOfCpuinfo(''), null);
});

test('a lock, one holds it at a time and it is free when disposed of', async () => {
  const name = `test/${process.pid}`;
  const lock = await takeHostLock(name);
  assert.ok(lock !== null);
  assert.equal(await takeHostLock(name), null);
  await lock[Symbol.asyncDispose]();
  const again = await takeHostLock(name);
  assert.ok(again !== null);
  await again[Symbol.asyncDispose]();
});

test('user ids, those that live have different ones, and none is given beyond the pool', async () => {
  const first = 3_000_000 + process.pid * 4;
  const [one, other] = [new UidPool(first, 2), new UidPool(first, 2)];
  await using a = await one.take();
  await using b = await other.take();
  assert.deepEqual([a.uid, b.uid], [first, first + 1]);
  await assert.rejects(one.take(), /no user id/);
  await a[Symbol.asyncDispose]();
  await using c = await other.take();
  assert.equal(c.uid, first);
});

test('a clock that jumps, as after a suspend, the deadline is seen within its look', async () => {
  await using directory = await workspace();
  const path = join(directory.path, 'uptime');
  await writeFile(path, '100.00 0.00\n');
  let passed = false;
  using _deadline = deadline(3_600_000, () => (passed = true), uptimeClock(path));
  await writeFile(path, '3800.00 0.00\n');
  await eventually('the deadline', () => passed, 1_500);
});

test('the uptime, it goes on between two looks at the file, counts a suspend from the next one on, and never goes back', async () => {
  await using directory = await workspace();
  const path = join(directory.path, 'uptime');
  let awakeMs = 5;
  await writeFile(path, '100.00 0.00\n');
  const uptime = uptimeClock(path, () => awakeMs);
  assert.equal(uptime(), 100_000);
  awakeMs = 24;
  await writeFile(path, '100.01 0.00\n');
  assert.equal(uptime(), 100_019);
  await writeFile(path, '3700.02 0.00\n');
  awakeMs = 33;
  assert.equal(uptime(), 100_028);
  awakeMs = 34;
  assert.equal(uptime(), 3_700_020);
});

test('a deadline that is disposed of, it does not pass', async () => {
  let passed = false;
  deadline(10, () => (passed = true))[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.equal(passed, false);
});
