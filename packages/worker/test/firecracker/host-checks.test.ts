import assert from 'node:assert/strict';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { adviseFirecrackerHost } from '../../src/sandbox/firecracker/host-checks.ts';
import { workspace } from '../support/workspace.ts';

/** A host as it should be. */
const GOOD: Readonly<Record<string, string>> = {
  'proc/sys/kernel/osrelease': '6.1.0-30-amd64\n',
  'proc/swaps': 'Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 100 0 -2\n',
  'proc/meminfo': 'MemTotal: 1 kB\nHugePages_Total: 0\nHugePages_Free: 0\nHugepagesize: 2048 kB\n',
  'proc/mounts': 'cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,favordynmods 0 0\n',
  'proc/cmdline': 'quiet\n',
  'proc/self/mountinfo': '1 0 8:1 / / rw - ext4 /dev/vda rw\n',
  'sys/devices/system/cpu/vulnerabilities/itlb_multihit': 'Not affected\n',
  'sys/devices/system/cpu/vulnerabilities/spectre_v2': 'Mitigation: Retpolines\n',
  'sys/devices/system/cpu/smt/active': '0\n',
  'sys/kernel/mm/ksm/run': '0\n',
  'sys/module/kvm/parameters/nx_huge_pages': 'Y\n',
  'sys/fs/cgroup/cgroup.controllers': 'cpu memory pids\n',
};

/** What is advised for a host like the good one but for these files; null is a file that is not there. */
async function advice(changes: Readonly<Record<string, string | null>>, paths: readonly string[] = []) {
  await using directory = await workspace();
  for (const [file, content] of Object.entries({ ...GOOD, ...changes })) {
    const path = join(directory.path, file);
    await mkdir(dirname(path), { recursive: true });
    if (content === null) await rm(path, { force: true });
    else await writeFile(path, content);
  }
  const roots = { proc: join(directory.path, 'proc'), sys: join(directory.path, 'sys') };
  return adviseFirecrackerHost(paths, roots);
}

describe('advice to the owner of a Firecracker host', () => {
  test('a host as it should be, there is none', async () => {
    const checks = await advice({});
    assert.deepEqual(
      checks.filter(({ ok }) => !ok),
      [],
    );
    assert.equal(checks.length, 10);
  });

  const NX = 'sys/module/kvm/parameters/nx_huge_pages';
  const ITLB = 'sys/devices/system/cpu/vulnerabilities/itlb_multihit';
  const PLAIN_MOUNT = 'cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n';
  const wrong: [string, Record<string, string | null>, string, RegExp, RegExp][] = [
    [
      'an old kernel',
      { 'proc/sys/kernel/osrelease': '5.4.0-1\n' },
      'host kernel',
      /5\.4\.0-1.*from 5\.10/,
      /newer kernel/,
    ],
    [
      'flaws without a mitigation',
      { 'sys/devices/system/cpu/vulnerabilities/mds': 'Vulnerable: Clear CPU buffers attempted, no microcode\n' },
      'processor flaws',
      /mitigated: mds$/,
      /microcode/,
    ],
    ['hyper-threads', { 'sys/devices/system/cpu/smt/active': '1\n' }, 'hyper-threads', /share a core/, /nosmt/],
    ['merged pages', { 'sys/kernel/mm/ksm/run': '1\n' }, 'same-page merging', /merged/, /ksm\/run/],
    [
      'swap on a disk',
      { 'proc/swaps': 'Filename Type Size Used Priority\n/swap.img file 1 0 -2\n/dev/sda2 partition 1 0 -2\n' },
      'swap',
      /^\/swap\.img, \/dev\/sda2:/,
      /swapoff/,
    ],
    [
      'idle huge pages',
      { 'proc/meminfo': 'HugePages_Total: 600\nHugePages_Free: 512\nHugepagesize: 2048 kB\n' },
      'huge pages',
      /^1024 MiB are reserved/,
      /nr_hugepages/,
    ],
    [
      'slow machines',
      { 'proc/mounts': PLAIN_MOUNT },
      'time to make a machine',
      /6\.1/,
      /nx_huge_pages=never, or mount/,
    ],
    [
      'slow machines on a processor with the flaw',
      { 'proc/mounts': PLAIN_MOUNT, [ITLB]: 'KVM: Mitigation: VMX disabled\n' },
      'time to make a machine',
      /6\.1/,
      /^Mount control groups with favordynmods/,
    ],
    [
      'control groups version 1',
      { 'sys/fs/cgroup/cgroup.controllers': null },
      'control groups for snapshots',
      /version 1/,
      /unified_cgroup_hierarchy/,
    ],
    ['many mounts', { 'proc/self/mountinfo': 'x\n'.repeat(700) }, 'mounts', /^700 file systems/, /fewer/],
  ];
  for (const [what, changes, name, reason, remedy] of wrong) {
    test(`${what}, the check says why and what to do`, async () => {
      const bad = (await advice(changes)).filter(({ ok }) => !ok);
      assert.deepEqual(
        bad.map((check) => check.name),
        [name],
      );
      assert.match(bad[0]!.reason, reason);
      assert.match(bad[0]!.remedy ?? '', remedy);
    });
  }

  test('what makes a machine fast, each way is enough', async () => {
    const ways: Record<string, string>[] = [
      { [NX]: 'never\n' },
      { 'proc/cmdline': 'quiet cgroup_favordynmods=true\n' },
      { 'proc/sys/kernel/osrelease': '5.15.0\n' },
    ];
    for (const way of ways) {
      const check = (await advice({ 'proc/mounts': PLAIN_MOUNT, ...way })).find(({ name }) => name.startsWith('time'));
      assert.equal(check?.ok, true, JSON.stringify(way));
    }
  });

  test('a host that shows nothing, nothing breaks', async () => {
    const checks = await advice(Object.fromEntries(Object.keys(GOOD).map((file) => [file, null])));
    for (const check of checks) assert.ok(check.ok || check.remedy !== null, check.name);
  });

  test(
    'files that others can change, they are named; a sticky directory is none',
    { skip: process.geteuid?.() === 0 ? false : 'the files must be root’s' },
    async () => {
      await using directory = await workspace();
      const file = join(directory.path, 'open/firecracker');
      await mkdir(dirname(file));
      await writeFile(file, '');
      const check = async () => (await advice({}, [file])).find(({ name }) => name === 'files of the jailer')!;
      assert.equal((await check()).ok, true);
      await chmod(dirname(file), 0o777);
      assert.match((await check()).reason, new RegExp(`can change ${dirname(file)}, and`));
      await chmod(dirname(file), 0o1777);
      assert.equal((await check()).ok, true);
      await chmod(file, 0o775);
      assert.match((await check()).reason, new RegExp(`can change ${file}, and`));
    },
  );
});
