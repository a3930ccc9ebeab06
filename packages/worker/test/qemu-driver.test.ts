import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile, readlink, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openCgroups } from '../src/cgroup/open.ts';
import { driverConformance } from './driver.conformance.ts';
import { hostileFunctionConformance } from './hostile-function.conformance.ts';
import { hostileGuestConformance } from './hostile-guest.conformance.ts';
import { outlivingConformance } from './outliving.conformance.ts';
import { hostileMicrovm } from './support/hostile-microvm.ts';
import { qemuSkip, qemuTarget } from './support/qemu-target.ts';
import { startProgram } from './support/run-program.ts';
import { eventually } from './support/workspace.ts';

const skip = qemuSkip();
const DEAR =
  'each takes a machine, and the daemon’s side is the fake driver’s: all are tried where COCORE_TEST_WHOLE is set';
const tag = `test${process.pid}`;
/** A machine that is restored runs within a third of this. */
const MUTE_MS = 1_000;

if (skip === false) {
  driverConformance('qemu', () => qemuTarget(tag, undefined, { recover: true }));
  outlivingConformance('qemu', `${tag}o`, (runDir) =>
    qemuTarget(`${tag}o`, undefined, { recover: true, ...(runDir === '' ? {} : { runDir }) }),
  );
  hostileGuestConformance(
    'qemu',
    () =>
      hostileMicrovm(MUTE_MS, ({ artifacts, snapshots }) =>
        qemuTarget(snapshots === null ? `${tag}c` : `${tag}h`, snapshots, { artifacts }),
      ),
    { onlyTypical: process.env['COCORE_TEST_WHOLE'] === undefined ? DEAR : false },
  );
  hostileFunctionConformance('qemu', () => qemuTarget(`${tag}f`), {
    onlyTypical: 'the agent’s own tests have the rest (guest/agent/test/loop.py)',
  });
} else test('driver qemu', { skip }, () => undefined);

const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

describe('qemu confinement', { skip }, () => {
  test('a running machine, QEMU has nothing of the host but what it was given', async () => {
    await using target = await qemuTarget(tag);
    await target.driver.prepare();
    const { imagePath, codePath } = target;
    const spec = { name: 'confined', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
    await using program = await startProgram(target.driver, spec, target.argv(['sleep:60000']));
    await program.started;
    const cgroups = await openCgroups();
    const group = cgroups.open(`${tag}.confined`);
    const comms = await Promise.all(
      (await group.pids()).map(async (pid) => [pid, (await readFile(`/proc/${pid}/comm`, 'latin1')).trim()] as const),
    );
    const [pid] = comms.find(([, comm]) => comm.startsWith('qemu')) ?? assert.fail(JSON.stringify(comms));
    const status = await readFile(`/proc/${pid}/status`, 'latin1');
    const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1];
    const uid = Number(field('Uid')?.split('\t')[0]);
    assert.ok(uid >= 200_000, `uid ${uid}`);
    assert.equal(field('Uid'), `${uid}\t${uid}\t${uid}\t${uid}`);
    assert.equal(field('Gid'), `${uid}\t${uid}\t${uid}\t${uid}`);
    assert.equal(field('Groups')?.trim() ?? '', '');
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.match(field(set) ?? '', /^0+$/, set);
    assert.equal(field('NoNewPrivs'), '1');
    assert.equal(field('Seccomp'), '2');
    assert.equal(field('NSpid'), `${pid}\t1`);
    for (const namespace of ['net', 'ipc', 'uts', 'pid', 'mnt']) {
      const [its, ours] = await Promise.all(['self', pid].map((who) => readlink(`/proc/${who}/ns/${namespace}`)));
      assert.notEqual(its, ours, namespace);
    }
    const mounts = (await readFile(`/proc/${pid}/mountinfo`, 'latin1')).trim().split('\n');
    const points = mounts.map((line) => line.split(' ')).map((fields) => ({ at: fields[4]!, options: fields[5]! }));
    const files = [
      ...['/vm/kernel', '/vm/initrd', '/etc/ld.so.cache'],
      ...['/vm/drives/rootfs', '/vm/drives/code', '/vm/drives/scratch'],
    ];
    const devices = ['/dev/null', '/dev/zero', '/dev/urandom'];
    const libraries = /^\/(?:usr|bin|sbin|lib|lib32|lib64|libx32)$/;
    const expected = new Set(['/', '/vm/own', ...files, ...devices]);
    assert.deepEqual(
      points.map(({ at }) => at).filter((at) => !expected.has(at) && !libraries.test(at)),
      [],
    );
    const writable = points.filter(({ options }) => options.split(',').includes('rw')).map(({ at }) => at);
    assert.deepEqual(
      writable.filter((at) => !devices.includes(at)),
      ['/vm/drives/scratch', '/vm/own'],
    );
    const limits = await readFile(`/proc/${pid}/limits`, 'latin1');
    assert.match(limits, /^Max core file size\s+0\s+0/m);
    assert.match(limits, new RegExp(`^Max file size\\s+${512 * 2 ** 20}\\s`, 'm'));
    const cgroup = await readFile(`/proc/${pid}/cgroup`, 'latin1');
    const controllers = cgroups.version === 2 ? [''] : ['memory', 'cpu', 'cpuacct', 'pids', 'freezer'];
    for (const controller of controllers) {
      const own = cgroup.split('\n').find((line) => line.split(':')[1]?.split(',').includes(controller));
      assert.ok(own?.endsWith(`/cocore/run/${tag}.confined`), `${controller}: ${own}`);
    }
    assert.equal((await readFile(`/proc/${pid}/environ`, 'latin1')).replaceAll('\0', ' ').trim(), 'PATH=/usr/bin');
    assert.match(await readFile(`/proc/${pid}/net/dev`, 'latin1'), /^[^\n]+\n[^\n]+\n\s*lo:[^\n]*\n$/, 'more than lo');
  });

  test('a daemon killed with SIGKILL, its machine dies with it and its next life removes what is left', async () => {
    const path = fileURLToPath(new URL('support/hold-machine.ts', import.meta.url));
    const child = spawn(process.execPath, [path, tag], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const line = await new Promise<string>((resolve, reject) => {
      lines.once('line', resolve);
      child.once('exit', () => reject(new Error('the holder ended early')));
    });
    const { pids, path: directory } = JSON.parse(line) as { pids: number[]; path: string };
    assert.ok(pids.length >= 2, 'unshare and QEMU');
    child.removeAllListeners('exit');
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await exited;
    await eventually('the machine’s processes are gone', () => !pids.some(alive), 2_000);
    const cgroups = await openCgroups();
    const ours = async () => (await cgroups.list()).filter((name) => name.startsWith(`${tag}.`));
    assert.deepEqual(await ours(), [`${tag}.held`], 'the dead daemon’s group is there');
    await using target = await qemuTarget(tag);
    await target.driver.prepare();
    assert.deepEqual(await ours(), []);
    await rm(directory, { recursive: true, force: true });
  });
});
