import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { keyedValue, pidList, singleValue } from '../src/cgroup/cgroup.ts';
import { openCgroups } from '../src/cgroup/open.ts';
import { eventually, workspace } from './support/workspace.ts';

test('what the kernel writes, it is read; what it does not write is null', () => {
  const stat = 'usage_usec 1234567\nuser_usec 1\nnr_periods 0\n';
  assert.equal(keyedValue(stat, 'usage_usec'), 1_234_567);
  assert.equal(keyedValue(stat, 'usec'), null);
  assert.equal(keyedValue(stat, 'nr_throttled'), null);
  assert.equal(singleValue('4096\n'), 4096);
  assert.equal(singleValue('max\n'), null);
  assert.equal(singleValue(''), null);
  assert.deepEqual(pidList('1\n22\n'), [1, 22]);
  assert.deepEqual(pidList(''), []);
});

const skip = process.geteuid?.() === 0 ? false : 'control groups are made by root';

describe('control groups of this host', { skip }, () => {
  const NAME = `cgrouptest.${process.pid}`;
  const LIMITS = { memoryBytes: 64 * 2 ** 20, pids: 20, cpus: 1 };

  /** A shell that joined the group and then runs `script`. */
  function join(procsFiles: readonly string[], script: string) {
    const enter = 'for file in $FILES; do echo $$ >"$file"; done; ';
    return spawn('/bin/sh', ['-c', `${enter}${script}`], {
      env: { PATH: '/usr/bin:/bin', FILES: procsFiles.join(' ') },
      stdio: 'ignore',
    });
  }

  test('a busy process and its child, they are metered, killed, and the group is removed', async () => {
    const cgroups = await openCgroups();
    const group = await cgroups.create(NAME);
    await using scope = new AsyncDisposableStack();
    scope.defer(async () => {
      await group.remove();
      await cgroups.tidy();
    });
    await group.limit(LIMITS);
    const child = join(group.procsFiles, 'sleep 60 & while :; do :; done');
    const exited = once(child, 'exit');
    await eventually('two processes', async () => (await group.pids()).length === 2);
    await eventually('CPU time', async () => ((await group.usage()).cpuMs ?? 0) > 20);
    assert.ok(((await group.usage()).memoryPeakBytes ?? 0) > 0);
    assert.ok((await cgroups.list()).includes(NAME));
    await group.killAll();
    assert.equal(await group.oomKills(), 0, 'this was not for memory');
    assert.deepEqual(await group.pids(), []);
    assert.deepEqual((await exited)[1], 'SIGKILL');
    await group.remove();
    await group.remove();
    assert.ok(!(await cgroups.list()).includes(NAME));
  });

  test('a frozen process, it does nothing and can still be killed', async () => {
    const cgroups = await openCgroups();
    const group = await cgroups.create(NAME);
    await using scope = new AsyncDisposableStack();
    scope.defer(async () => {
      await group.remove();
      await cgroups.tidy();
    });
    const child = join(group.procsFiles, 'while :; do :; done');
    const exited = once(child, 'exit');
    await eventually('CPU time', async () => ((await group.usage()).cpuMs ?? 0) > 5);
    await group.freeze(true);
    const { cpuMs } = await group.usage();
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal((await group.usage()).cpuMs, cpuMs);
    await group.killAll();
    await exited;
  });

  test('more memory than the limit, the process is killed by it', async () => {
    const cgroups = await openCgroups();
    const group = await cgroups.create(NAME);
    await using scope = new AsyncDisposableStack();
    scope.defer(async () => {
      await group.remove();
      await cgroups.tidy();
    });
    await group.limit(LIMITS);
    const child = join(group.procsFiles, 'exec tail /dev/zero');
    const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
    assert.equal(signal, 'SIGKILL');
    const peak = (await group.usage()).memoryPeakBytes ?? 0;
    assert.ok(peak > LIMITS.memoryBytes * 0.9 && peak <= LIMITS.memoryBytes, `${peak}`);
    assert.equal(await group.oomKills(), 1);
  });
});

describe('control groups version 2, on a tree of files', () => {
  /** What the kernel would offer at the root and in the group `cocore/run/<name>`. */
  async function tree(root: string, name: string, files: Record<string, string>) {
    const group = join(root, 'cocore', 'run', name);
    await mkdir(group, { recursive: true });
    await writeFile(join(root, 'cgroup.controllers'), 'cpuset cpu io memory pids\n');
    for (const path of [root, join(root, 'cocore'), join(root, 'cocore', 'run')]) {
      await writeFile(join(path, 'cgroup.subtree_control'), '');
    }
    for (const [file, text] of Object.entries(files)) await writeFile(join(group, file), text);
    return (file: string) => readFile(join(group, file), 'utf8');
  }

  test('limits and usage, they are written and read as version 2 has them', async () => {
    await using directory = await workspace();
    const read = await tree(directory.path, 'd.one', {
      'memory.max': 'max\n',
      'memory.swap.max': 'max\n',
      'memory.oom.group': '0\n',
      'pids.max': 'max\n',
      'cpu.max': 'max 100000\n',
      'cpu.stat': 'usage_usec 2500\nuser_usec 1\n',
      'memory.peak': '8192\n',
      'memory.events': 'low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n',
      'cgroup.procs': '',
    });
    const cgroups = await openCgroups(directory.path);
    assert.equal(cgroups.version, 2);
    const group = await cgroups.create('d.one');
    await group.limit({ memoryBytes: 1 << 20, pids: 9, cpus: 1.5 });
    assert.match(await read('memory.max'), /^1048576/);
    assert.match(await read('memory.swap.max'), /^0/);
    assert.match(await read('memory.oom.group'), /^1/);
    assert.match(await read('pids.max'), /^9/);
    assert.match(await read('cpu.max'), /^150000 100000/);
    assert.deepEqual(await group.usage(), { cpuMs: 2.5, memoryPeakBytes: 8192 });
    assert.equal(await group.oomKills(), 2);
    assert.deepEqual(group.procsFiles, [join(directory.path, 'cocore/run/d.one/cgroup.procs')]);
    const control = await readFile(join(directory.path, 'cocore/run/cgroup.subtree_control'), 'utf8');
    assert.equal(control, '+memory +cpu +pids');
    assert.deepEqual(await cgroups.list(), ['d.one']);
  });

  test('a kernel without cgroup.kill, processes are killed one by one until none is left', async () => {
    await using directory = await workspace();
    const group = join(directory.path, 'cocore/run/d.two');
    await tree(directory.path, 'd.two', { 'cgroup.procs': '41\n42\n' });
    const killed: number[] = [];
    const cgroups = await openCgroups(directory.path, (pid) => {
      killed.push(pid);
      if (pid === 42) void writeFile(join(group, 'cgroup.procs'), '');
    });
    await cgroups.open('d.two').killAll();
    assert.deepEqual(killed.slice(0, 2), [41, 42]);
  });

  test('controllers that are not offered, the host is unfit and they are named', async () => {
    await using directory = await workspace();
    await writeFile(join(directory.path, 'cgroup.controllers'), 'cpu io\n');
    await assert.rejects(openCgroups(directory.path), /memory, pids are not offered/);
  });
});
