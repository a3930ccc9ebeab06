import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdir, readFile, readlink, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openCgroups } from '../../src/cgroup/open.ts';
import { FirecrackerSandbox } from '../../src/sandbox/firecracker/firecracker-sandbox.ts';
import { firecrackerSkip, firecrackerTarget, isReal } from '../support/firecracker-target.ts';
import { startProgram } from '../support/run-program.ts';
import { eventually } from '../support/workspace.ts';

const skip = firecrackerSkip();
const tag = `fcjail${process.pid}`;

const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const statusOf = (text: string) => (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(text)?.[1] ?? '';

describe('Firecracker’s confinement', { skip }, () => {
  test('a running machine, its monitor has nothing of the host but what it was given', async () => {
    await using target = await firecrackerTarget(tag);
    await target.driver.prepare();
    const { imagePath, codePath } = target;
    const spec = { name: 'jailed', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
    await using program = await startProgram(target.driver, spec, target.argv(['sleep:60000']));
    await program.started;
    const cgroups = await openCgroups();
    const statuses = await Promise.all(
      (await cgroups.open(`${tag}.jailed`).pids()).map(async (one) => ({
        pid: one,
        field: statusOf(await readFile(`/proc/${one}/status`, 'latin1')),
      })),
    );
    // Process 1 of the namespace in the launcher's namespace.
    const monitor = statuses.find(({ field }) => /^\d+\t\d+\t1$/.test(field('NSpid')));
    assert.ok(monitor !== undefined, JSON.stringify(statuses.map(({ field }) => field('NSpid'))));
    const { pid, field } = monitor;
    const uid = Number(field('Uid').split('\t')[0]);
    assert.ok(uid >= 200_000, `uid ${uid}`);
    for (const ids of ['Uid', 'Gid']) assert.equal(field(ids), `${uid}\t${uid}\t${uid}\t${uid}`);
    assert.equal(field('Groups').trim(), '');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) assert.match(field(set), /^0+$/, set);
    if (isReal) {
      assert.equal(field('NoNewPrivs'), '1');
      assert.equal(field('Seccomp'), '2');
    }
    for (const namespace of ['net', 'ipc', 'uts', 'pid', 'mnt']) {
      const [its, ours] = await Promise.all(['self', pid].map((who) => readlink(`/proc/${who}/ns/${namespace}`)));
      assert.notEqual(its, ours, namespace);
    }
    assert.match(await readFile(`/proc/${pid}/net/dev`, 'latin1'), /^[^\n]+\n[^\n]+\n\s*lo:[^\n]*\n$/, 'more than lo');
    const limits = await readFile(`/proc/${pid}/limits`, 'latin1');
    assert.match(limits, new RegExp(`^Max file size\\s+${512 * 2 ** 20}\\s`, 'm'));
    assert.match(limits, /^Max open files\s+256\s+256\s/m);
    const cgroup = await readFile(`/proc/${pid}/cgroup`, 'latin1');
    const controllers = cgroups.version === 2 ? [''] : ['memory', 'cpu', 'cpuacct', 'pids', 'freezer'];
    for (const controller of controllers) {
      const own = cgroup.split('\n').find((line) => line.split(':')[1]?.split(',').includes(controller));
      assert.ok(own?.endsWith(`/cocore/run/${tag}.jailed`), `${controller}: ${own}`);
    }

    const root = await readdir(`/proc/${pid}/root`);
    const ours = ['api.sock', 'dev', 'firecracker', 'firecracker.pid', 'log', 'metrics', 'run', 'vm', 'vsock.sock'];
    const doubles = ['double', 'usr', 'etc', 'bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'];
    const allowed = isReal ? ours : [...ours, ...doubles];
    assert.deepEqual(
      root.filter((name) => !allowed.includes(name)),
      [],
      'nobody listens for a connection that a guest begins, and nothing else is there',
    );
    const mounts = (await readFile(`/proc/${pid}/mountinfo`, 'latin1')).trim().split('\n');
    const points = mounts.map((line) => line.split(' ')).map((fields) => ({ at: fields[4]!, options: fields[5]! }));
    const files = ['/vm/kernel', '/vm/initrd', '/vm/rootfs', '/vm/code', '/vm/scratch'];
    assert.deepEqual(
      files.filter((file) => !points.some(({ at }) => at === file)),
      [],
    );
    const writable = points.filter(({ options }) => options.split(',').includes('rw')).map(({ at }) => at);
    assert.deepEqual([...new Set(writable)].sort(), ['/', '/vm/scratch']);

    const { sandbox } = program.booted;
    assert.ok(sandbox instanceof FirecrackerSandbox);
    await eventually('metrics', () => sandbox.metrics().includes('utc_timestamp_ms'));
  });

  test('a daemon killed with SIGKILL, its machine dies with it and its next life removes what is left', async () => {
    const path = fileURLToPath(new URL('../support/hold-firecracker.ts', import.meta.url));
    const child = spawn(process.execPath, [path, tag], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const line = await new Promise<string>((resolve, reject) => {
      lines.once('line', resolve);
      child.once('exit', () => reject(new Error('the holder ended early')));
    });
    const { pids, path: directory } = JSON.parse(line) as { pids: number[]; path: string };
    assert.ok(pids.length >= 3, 'two of the launcher, and the monitor');
    child.removeAllListeners('exit');
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await exited;
    await eventually('the machine’s processes are gone', () => !pids.some(alive), 2_000);
    const cgroups = await openCgroups();
    const ours = async () => (await cgroups.list()).filter((name) => name.startsWith(`${tag}.`));
    assert.deepEqual(await ours(), [`${tag}.held`], 'the dead daemon’s group is there');
    await using target = await firecrackerTarget(tag);
    await target.driver.prepare();
    assert.deepEqual(await ours(), []);
    await rm(directory, { recursive: true, force: true });
  });
});
