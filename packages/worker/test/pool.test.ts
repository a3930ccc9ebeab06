import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { BlankSandbox, BlankSandboxes, SandboxDriver, SandboxSpec } from '../src/sandbox/driver.ts';
import { FakeDriver } from '../src/sandbox/fake/fake-driver.ts';
import { PoolPlan } from '../src/sandbox/pool/pool-plan.ts';
import { PooledDriver, type PooledDriverOptions } from '../src/sandbox/pool/pooled-driver.ts';
import { runProgram } from './support/run-program.ts';
import { eventually } from './support/workspace.ts';

const SPEC: SandboxSpec = { name: 'a', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath: '/i', codePath: '/c' };
const signal = new AbortController().signal;

/** A fake driver that can be asked for blank sandboxes, and counts them. */
class BlankFake extends FakeDriver implements BlankSandboxes {
  started = 0;
  blanks = 0;
  disposed = 0;
  failing = false;
  /** Ends the one that was made last, as a machine that dies. */
  die: () => void = () => undefined;

  override async start(...args: Parameters<SandboxDriver['start']>) {
    this.started += 1;
    return super.start(...args);
  }

  async startBlank(name: string): Promise<BlankSandbox> {
    if (this.failing) throw new Error('no machine');
    this.blanks += 1;
    const exit = Promise.withResolvers<{ code: number | null; signal: string | null }>();
    this.die = () => exit.resolve({ code: 1, signal: null });
    return {
      exited: exit.promise,
      fill: (spec) => super.start({ ...spec, name }, signal),
      [Symbol.asyncDispose]: async () => {
        this.disposed += 1;
      },
    };
  }
}

function pooled(options: Partial<PooledDriverOptions> = {}) {
  const driver = new BlankFake();
  const clock = { nowMs: 1_000_000 };
  const pool = new PooledDriver({ driver, roomMiB: () => 10_000, clock: () => clock.nowMs, lookMs: 5, ...options });
  return { driver, clock, pool };
}

describe('pool plan', () => {
  test('nobody asked, nothing waits', () => assert.equal(new PoolPlan().target(0), 0));

  test('one that asked, one waits; after a long silence none', () => {
    const plan = new PoolPlan();
    plan.arrived(0);
    assert.equal(plan.target(1_000), 1);
    assert.equal(plan.target(299_999), 1);
    assert.equal(plan.target(300_000), 0);
  });

  test('a steady rate, what waits covers the arrivals while one is made, and more when making takes longer', () => {
    const [quick, slow] = [new PoolPlan(), new PoolPlan()];
    for (let nowMs = 0; nowMs < 120_000; nowMs += 200) {
      for (const plan of [quick, slow]) plan.arrived(nowMs);
      quick.made(200);
      slow.made(1_000);
    }
    // Five a second: one arrives while one is made in 200 ms, five in a second.
    assert.equal(quick.target(120_000), 3);
    assert.equal(slow.target(120_000), 10);
    assert.ok(slow.target(150_000) < 10, 'it falls with the rate');
  });

  test('a flood, there is a most', () => {
    const plan = new PoolPlan({ halfLifeMs: 1_000, idleMs: 1_000, most: 4 });
    for (let nowMs = 0; nowMs < 1_000; nowMs += 1) plan.arrived(nowMs);
    assert.equal(plan.target(1_000), 4);
  });
});

describe('pooled driver', () => {
  test('the first start is the driver’s own; the next one is filled from the pool, and runs', async () => {
    const { driver, pool } = pooled();
    await using _pool = pool;
    assert.equal((await runProgram(pool, SPEC, ['sh', 'f', 'out:one'])).stdout.toString(), 'one');
    await eventually('one waits', () => pool.ready === 1);
    assert.equal((await runProgram(pool, SPEC, ['sh', 'f', 'out:two'])).stdout.toString(), 'two');
    assert.equal(driver.started, 1);
  });

  test('a shape of another size, it is not served by what waits', async () => {
    const { driver, pool } = pooled();
    await using _pool = pool;
    await (await pool.start(SPEC, signal)).destroy();
    await eventually('one waits', () => pool.ready === 1);
    await (await pool.start({ ...SPEC, memoryMiB: 256 }, signal)).destroy();
    assert.equal(driver.started, 2);
  });

  test('attempts need the room, what waits is given up, and made again when there is room', async () => {
    let roomMiB = 10_000;
    const { driver, pool } = pooled({ roomMiB: () => roomMiB });
    await using _pool = pool;
    await (await pool.start(SPEC, signal)).destroy();
    await eventually('one waits', () => pool.ready === 1);
    roomMiB = 127;
    await eventually('none waits', () => pool.ready === 0 && driver.disposed === 1);
    roomMiB = 128;
    await eventually('one waits again', () => pool.ready === 1);
  });

  test('nobody asks any more, what waits is given up', async () => {
    const { driver, clock, pool } = pooled();
    await using _pool = pool;
    await (await pool.start(SPEC, signal)).destroy();
    await eventually('one waits', () => pool.ready === 1);
    clock.nowMs += 3_600_000;
    await eventually('none waits', () => pool.ready === 0 && driver.disposed === 1);
  });

  test('one that dies while it waits, it is replaced after a pause', async () => {
    const { driver, clock, pool } = pooled();
    await using _pool = pool;
    await (await pool.start(SPEC, signal)).destroy();
    await eventually('one waits', () => pool.ready === 1);
    driver.die();
    await eventually('it is gone', () => pool.ready === 0 && driver.disposed === 1);
    clock.nowMs += 10_000;
    await eventually('another one waits', () => pool.ready === 1);
  });

  test('sandboxes cannot be made, starts go on without a pool and it is not tried in a loop', async () => {
    const { driver, pool } = pooled();
    await using _pool = pool;
    driver.failing = true;
    for (let count = 0; count < 3; count += 1) await (await pool.start(SPEC, signal)).destroy();
    assert.equal(driver.started, 3);
    assert.equal(pool.ready, 0);
  });

  test('the daemon ends, what waits is gone', async () => {
    const { driver, pool } = pooled();
    await (await pool.start(SPEC, signal)).destroy();
    await eventually('one waits', () => pool.ready === 1);
    await pool[Symbol.asyncDispose]();
    assert.equal(driver.disposed, driver.blanks);
  });
});
