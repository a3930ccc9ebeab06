import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import { ofStreams } from '@cocore/protocol';
import { GuestChannel } from '../src/guest/channel.ts';
import { stdinOfBytes } from '../src/guest/stdin.ts';
import type { SandboxDriver, SandboxHandle, SandboxSpec } from '../src/sandbox/driver.ts';
import { archiveOf } from '../src/sandbox/fake/archive.ts';
import { type Finished, runProgram, startProgram } from './support/run-program.ts';
import { eventually } from './support/workspace.ts';

/**
 * What is tested: a driver, and how a program of steps (see `FakeGuest`) is run in its sandboxes. The steps used here are `out`, `err`,
 * `outbytes`, `cat`, `sleep`, `flood`, `fill`, `signal`, `oom`, `result`, `resultbytes`, `resultlink`, `artifact`, `artifactbytes`, `odd` and `exit`.
 */
export interface DriverTarget extends AsyncDisposable {
  readonly driver: SandboxDriver;
  readonly imagePath: string;
  readonly codePath: string;
  argv(steps: readonly string[]): string[];
  /** Another life of the driver, prepared, after which the first one is used no more. Of drivers that recover. */
  nextLife?(kept: readonly SandboxHandle[]): Promise<SandboxDriver>;
  /** What live or dead sandboxes have on the host now: empty when all are gone. */
  leftovers(): Promise<string[]>;
}

/** Tests that a driver cannot pass, and why. */
export type Skips = Readonly<Partial<Record<ConformanceTest, string>>>;
export type ConformanceTest = 'usage' | 'signal' | 'disk' | 'files';

/** Runs the suite that every driver must pass. */
export function driverConformance(name: string, makeTarget: () => Promise<DriverTarget>, skips: Skips = {}): void {
  describe(`driver ${name}`, () => {
    let target: DriverTarget;
    let serial = 0;
    const spec = (): SandboxSpec => {
      serial += 1;
      const { imagePath, codePath } = target;
      return { name: `conformance_${serial}`, memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
    };
    const run = (steps: readonly string[], stdin?: Uint8Array) =>
      runProgram(target.driver, spec(), target.argv(steps), stdin);
    const start = (steps: readonly string[]) => startProgram(target.driver, spec(), target.argv(steps));

    before(async () => {
      target = await makeTarget();
      await target.driver.prepare();
    });
    after(async () => {
      await target[Symbol.asyncDispose]();
    });
    afterEach(async () => {
      assert.deepEqual(await target.leftovers(), [], 'a sandbox left something behind');
    });

    test('a host that runs this suite, every check of the probe is passed', async () => {
      const checks = await target.driver.probe();
      assert.deepEqual(
        checks.filter((check) => !check.ok),
        [],
      );
    });

    test('a program that writes to both streams, each stream arrives apart and whole', async () => {
      const { end, stdout, stderr } = await run(['out:one ', 'err:E1', 'out:two', 'err:E2', 'exit:3']);
      assert.equal(stdout.toString(), 'one two');
      assert.equal(stderr.toString(), 'E1E2');
      assert.ok('type' in end && end.type === 'EXIT' && end.kind === 'exited' && end.code === 3, JSON.stringify(end));
    });

    test('input of every byte value beyond the window, it comes back unchanged', async () => {
      const every = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
      const stdin = Buffer.concat([every, randomBytes(700_000), every]);
      const { end, stdout } = await run(['cat'], stdin);
      assert.ok('type' in end && end.type === 'EXIT' && end.code === 0, JSON.stringify(end));
      assert.ok(stdout.equals(stdin), 'the bytes differ');
    });

    test('a program that never reads its input, it ends as it would without', async () => {
      const { end, stdout } = await run(['out:done', 'exit:4'], randomBytes(600_000));
      assert.equal(stdout.toString(), 'done');
      assert.ok('type' in end && end.type === 'EXIT' && end.code === 4, JSON.stringify(end));
    });

    test(
      'a program that wants more disk than there is, it is refused and goes on',
      { skip: skips.disk ?? false },
      async () => {
        const { end, stdout, stderr } = await run(['fill', 'out:alive', 'exit:0']);
        assert.match(stderr.toString(), /No space left on device/);
        assert.equal(stdout.toString(), 'alive');
        assert.ok('type' in end && end.type === 'EXIT' && end.code === 0, JSON.stringify(end));
      },
    );

    test('output beyond the window, its digest is right', async () => {
      const { stdout } = await run(['outbytes:3000000']);
      const expected = Buffer.alloc(3_000_000, '0123456789abcde\n');
      const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
      assert.equal(stdout.length, expected.length);
      assert.equal(sha256(stdout), sha256(expected));
    });

    const exitOf = ({ end }: Finished) => {
      assert.ok('type' in end && end.type === 'EXIT', JSON.stringify(end));
      return end;
    };

    test('input files, small, empty and beyond every buffer, they are there when the program starts', async () => {
      const [small, large] = [Buffer.from('a,b\n'), randomBytes(3_000_000)];
      const files = [
        { path: '/work/in.csv', data: small },
        { path: '/work/new/empty', data: Buffer.alloc(0) },
        { path: '/work/large', data: large },
      ];
      const steps = ['file:/work/in.csv', 'file:/work/new/empty', 'file:/work/large', 'exit:0'];
      const finished = await runProgram(target.driver, spec(), target.argv(steps), undefined, 0, files);
      assert.equal(finished.stderr.toString(), '');
      assert.ok(finished.stdout.equals(Buffer.concat([small, large])), `${finished.stdout.length} bytes`);
      assert.equal(exitOf(finished).code, 0);
    });

    test(
      'an input file that the image has no place for, the program is not started and that is said',
      { skip: skips.files ?? false },
      async () => {
        // Beyond every buffer: it is still being given when that is said.
        const files = [{ path: '/etc/passwd/in', data: Buffer.alloc(3_000_000) }];
        const { end } = await runProgram(target.driver, spec(), target.argv(['exit:0']), undefined, 0, files);
        assert.ok('type' in end && end.type === 'FAULT' && end.stage === 'start', JSON.stringify(end));
        assert.match(end.message, /input file \/etc\/passwd\/in.*: Not a directory/);
      },
    );

    test('a program that leaves nothing, nothing is sent', async () => {
      const finished = await run(['exit:0']);
      const { resultLength, artifactsLength, artifactFiles, refused } = exitOf(finished);
      assert.deepEqual([resultLength, artifactsLength, artifactFiles, refused], [0, 0, 0, null]);
    });

    test('a result, it arrives beside the output and the exit code, whatever that is', async () => {
      const finished = await run(['result:{"a":[1,"é"]}', 'out:printed', 'exit:3']);
      assert.equal(finished.result.toString(), '{"a":[1,"é"]}');
      assert.equal(finished.stdout.toString(), 'printed');
      assert.deepEqual([exitOf(finished).code, exitOf(finished).refused], [3, null]);
    });

    test('a result of the most that is taken, it arrives; one byte more is refused', async () => {
      const [most, more] = [await run(['resultbytes:262144']), await run(['resultbytes:262145', 'exit:0'])];
      assert.equal(most.result.length, 262_144);
      assert.deepEqual([exitOf(more).refused, exitOf(more).resultLength, exitOf(more).code], ['result', 0, 0]);
      assert.match(exitOf(more).message, /the result is 262145 bytes long/);
    });

    test('artifacts, they arrive as a sorted archive', async () => {
      const finished = await run(['artifact:b.txt:two', 'artifact:a.txt:one', 'exit:0']);
      const expected = archiveOf(
        new Map([
          ['a.txt', Buffer.from('one')],
          ['b.txt', Buffer.from('two')],
        ]),
      );
      assert.ok(finished.artifacts.equals(expected), finished.artifacts.toString('latin1'));
      assert.equal(exitOf(finished).artifactFiles, 2);
    });

    test('artifacts beyond the window and up to the limit, they arrive whole; one block more is refused', async () => {
      const limited = (bytes: number) =>
        runProgram(target.driver, spec(), target.argv([`artifactbytes:${bytes}`, 'exit:0']), undefined, 1_500_160);
      // With its header and the end of the archive.
      const [most, more] = [await limited(1_500_160 - 1536), await limited(1_500_160 - 1535)];
      assert.ok(
        most.artifacts.equals(archiveOf(new Map([['file', Buffer.alloc(1_500_160 - 1536, '0123456789abcde\n')]]))),
      );
      assert.deepEqual([exitOf(more).refused, exitOf(more).artifactsLength], ['artifacts', 0]);
    });

    test(
      'links and pipes among what is left, they are neither followed nor sent; closed files are read',
      { skip: skips.files ?? false },
      async () => {
        const finished = await run(['odd', 'exit:0']);
        const text = finished.artifacts.toString('latin1');
        assert.equal(exitOf(finished).artifactFiles, 1);
        assert.match(text, /^closed\/\0/);
        assert.match(text.slice(512), /^closed\/file\0[^]*inside/);
        assert.equal(finished.artifacts.length, 3 * 512 + 1024);
        assert.equal(exitOf(await run(['resultlink', 'exit:0'])).message, 'the result is not a regular file');
      },
    );

    test('a program that a signal ends, the signal is told', { skip: skips.signal ?? false }, async () => {
      const { end } = await run(['signal:15']);
      assert.ok('type' in end && end.type === 'EXIT' && end.kind === 'signaled', JSON.stringify(end));
      assert.equal(end.code, 15);
      assert.equal(end.oom, false);
    });

    test('a program over its memory, the agent lives to say so', async () => {
      const { end } = await run(['oom']);
      assert.ok('type' in end && end.type === 'EXIT' && end.oom, JSON.stringify(end));
    });

    test('two sandboxes at once, each runs its own program', async () => {
      const runs = await Promise.all(['one', 'two'].map((word) => run([`out:${word}`, 'exit:0'])));
      assert.deepEqual(
        runs.map(({ stdout }) => stdout.toString()),
        ['one', 'two'],
      );
    });

    test('a flooding sandbox that is destroyed, it is gone within a second and its usage stays', async () => {
      await using program = await start(['flood']);
      await eventually('output', () => program.output.stdout.length > 0);
      const { sandbox } = program.booted;
      const before = performance.now();
      await Promise.all([sandbox.destroy(), sandbox.destroy()]);
      assert.ok(performance.now() - before < 1000, `${performance.now() - before} ms`);
      await sandbox.exited;
      const usage = await sandbox.usage();
      assert.ok(usage.wallMs !== null && usage.wallMs > 0);
      assert.deepEqual(await sandbox.usage(), usage);
    });

    test('a sandbox that ran, the host measured it', { skip: skips.usage ?? false }, async () => {
      await using program = await start(['exit:0']);
      await program.ended;
      const usage = await program.booted.sandbox.usage();
      assert.ok(usage.cpuMs !== null && usage.cpuMs > 5, JSON.stringify(usage));
      assert.ok(usage.memoryPeakBytes !== null && usage.memoryPeakBytes > 2 ** 20, JSON.stringify(usage));
    });

    test('a sandbox destroyed before its agent speaks, nothing is left', async () => {
      const sandbox = await target.driver.start(spec(), new AbortController().signal);
      await sandbox.destroy();
      await sandbox.exited;
    });

    test('a sandbox destroyed while its program is being started, nothing is left', async () => {
      const program = await start(['sleep:60000']);
      await program[Symbol.asyncDispose]();
      await program.booted.sandbox.exited;
    });

    test('a start that is aborted, it rejects and nothing is left', async () => {
      const abort = new AbortController();
      const starting = target.driver.start(spec(), abort.signal);
      abort.abort(new Error('not wanted'));
      await starting.then(
        (sandbox) => sandbox.destroy(),
        (error: unknown) => assert.equal((error as Error).message, 'not wanted'),
      );
    });

    test('a handle, it is plain data; without the capability nothing is recovered', async () => {
      const sandbox = await target.driver.start(spec(), new AbortController().signal);
      const { handle } = sandbox;
      assert.deepEqual(JSON.parse(JSON.stringify(handle)), handle);
      if (!target.driver.capabilities.recover) {
        await sandbox.destroy();
        assert.equal(await target.driver.recover(handle), null);
      }
      await sandbox.destroy();
    });

    test('a sandbox that its daemon has lost, a new life takes it up and hears what the old one had not', async (context) => {
      if (target.nextLife === undefined) return context.skip('its sandboxes die with the daemon');
      await using other = await start(['sleep:60000']);
      await using program = await start(['out:one ', 'sleep:2000', 'out:two', 'result:1', 'exit:3']);
      await eventually('output', () => Buffer.concat(program.output.stdout).length === 4);
      const { sandbox: lost, channel: old } = program.booted;
      lost.outlive?.();
      old[Symbol.dispose]();
      lost.agent.destroy();
      const before = await lost.usage();
      const handle = JSON.parse(JSON.stringify(lost.handle)) as SandboxHandle;
      await using next = await target.nextLife([handle]);
      const stranger = { ...other.booted.sandbox.handle, name: 'stranger' };
      assert.equal(await next.recover(stranger), null);
      const sandbox = await next.recover(handle);
      assert.ok(sandbox !== null);
      await using _sandbox = sandbox;
      const said: string[] = [];
      const ended = Promise.withResolvers<unknown>();
      using channel = new GuestChannel(sandbox.agent, {
        started: () => said.push('started'),
        output: (stream, data) => said.push(`${stream} ${Buffer.from(data).toString()}`),
        ended: (frame) => ended.resolve(frame.type === 'EXIT' ? frame.code : frame),
        failed: (failure) => ended.resolve(failure),
      });
      await channel.takeUp();
      channel.resume(stdinOfBytes(new Uint8Array(0)), 2_000_000, { ...ofStreams(() => 0), stdout: 4 });
      assert.equal(await ended.promise, 3);
      assert.deepEqual(said, ['started', 'stdout two', 'result 1']);
      const usage = await sandbox.usage();
      assert.ok(usage.wallMs! > before.wallMs! && (usage.cpuMs ?? 1) > (before.cpuMs ?? 0), JSON.stringify(usage));
      assert.deepEqual(sandbox.handle, handle);
      await sandbox.destroy();
      await sandbox.exited;
      assert.equal(await next.recover(handle), null);
    });
  });
}
