import assert from 'node:assert/strict';
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { chrootDirectory, jailerCommand, jailId } from '../../src/sandbox/firecracker/jailer-command.ts';
import { BOOT_ARGS, drives, rateLimiter } from '../../src/sandbox/firecracker/machine.ts';
import { probeFirecrackerHost } from '../../src/sandbox/firecracker/probe.ts';
import { findTools, isAtLeast, parseVersion } from '../../src/sandbox/firecracker/tools.ts';
import { workspace } from '../support/workspace.ts';

describe('the jailer’s command', () => {
  const common = {
    jailer: '/usr/bin/jailer',
    execFile: '/usr/bin/firecracker',
    name: 'at_01',
    uid: 200_001,
    chrootBase: '/data/run',
    cgroupPath: 'cocore/run/d.at_01',
    fileBytes: 1024,
  };

  test('under version 1, no group is named: the launcher has joined it', () => {
    assert.equal(
      jailerCommand({ ...common, cgroupVersion: 1 }).join(' '),
      '/usr/bin/jailer --id at-01 --exec-file /usr/bin/firecracker --uid 200001 --gid 200001 --chroot-base-dir /data/run ' +
        '--cgroup-version 1 --resource-limit fsize=1024 --resource-limit no-file=256 -- --api-sock /api.sock ' +
        '--log-path /log --level Warning --show-level',
    );
  });

  test('under version 2, the module’s own group is the one to join', () => {
    const command = jailerCommand({ ...common, cgroupVersion: 2 });
    assert.equal(command[command.indexOf('--parent-cgroup') + 1], 'cocore/run/d.at_01');
    assert.ok(!command.includes('--cgroup'));
  });

  test('whatever the version, seccomp stays on', () => {
    for (const cgroupVersion of [1, 2] as const) {
      assert.ok(!jailerCommand({ ...common, cgroupVersion }).some((word) => word.includes('seccomp')));
    }
  });

  test('a name, its jail is where the jailer makes it', () => {
    assert.equal(chrootDirectory('/data/run', 'firecracker', 'at_01'), '/data/run/firecracker/at-01/root');
    assert.notEqual(jailId('a_b'), jailId('ab'));
    for (const name of ['', 'a-b', '../a', 'ä', 'a'.repeat(65)]) assert.throws(() => jailId(name), RangeError);
  });
});

test('the drives, their order is what the agent is told, and only scratch is written', () => {
  const rate = { bytesPerSecond: 1000, operationsPerSecond: 10 };
  assert.deepEqual(
    drives(rate).map((drive) => [drive.drive_id, drive.is_read_only, drive.is_root_device]),
    [
      ['rootfs', true, false],
      ['code', true, false],
      ['scratch', false, false],
    ],
  );
  assert.match(BOOT_ARGS, /(?:^| )cocore\.drives=rootfs,code,scratch(?: |$)/);
  assert.match(BOOT_ARGS, /(?:^| )cocore\.vsock=1024(?: |$)/);
  const limiter = { bandwidth: { size: 1000, refill_time: 1000 }, ops: { size: 10, refill_time: 1000 } };
  assert.deepEqual(rateLimiter(rate), limiter);
  assert.deepEqual(drives(rate)[2]!.rate_limiter, limiter);
});

describe('finding Firecracker', () => {
  async function program(path: string, says: string): Promise<string> {
    await writeFile(path, `#!/bin/sh\necho '${says}'\n`);
    await chmod(path, 0o755);
    return path;
  }

  test('a version, it is read and compared', () => {
    const version = parseVersion('Firecracker v1.16.1\n\n')!;
    assert.deepEqual(version, { major: 1, minor: 16, text: '1.16.1' });
    assert.equal(parseVersion('Jailer v2.0.0-dev')?.text, '2.0.0-dev');
    assert.equal(parseVersion('something else'), null);
    assert.ok(isAtLeast(version, [1, 8]) && isAtLeast(version, [1, 16]) && !isAtLeast(version, [1, 17]));
    assert.ok(isAtLeast({ major: 2, minor: 0, text: '' }, [1, 8]));
  });

  test('the environment and the PATH, the environment wins and links are followed', async () => {
    await using directory = await workspace();
    const [bin, real] = [join(directory.path, 'bin'), join(directory.path, 'firecracker-v1')];
    await mkdir(bin);
    await program(real, 'Firecracker v1.16.1');
    await symlink(real, join(bin, 'firecracker'));
    assert.deepEqual(await findTools({ PATH: bin }), { firecracker: real, jailer: null });
    assert.deepEqual(await findTools({ PATH: bin, COCORE_FIRECRACKER: '/nowhere' }), {
      firecracker: null,
      jailer: null,
    });
    assert.equal((await findTools({ PATH: '.', COCORE_JAILER: real })).jailer, real);
  });

  test('what a host lacks, each thing is named with a remedy', async () => {
    await using directory = await workspace();
    const old = await program(join(directory.path, 'old'), 'Firecracker v1.7.0');
    const other = await program(join(directory.path, 'other'), 'Jailer v1.16.1');
    const kvm = join(directory.path, 'kvm');
    const failures = async (firecracker: string | null, jailer: string | null) =>
      (await probeFirecrackerHost({ firecracker, jailer }, kvm)).filter((check) => !check.ok && check.name !== 'root');
    const reasons = async (...tools: Parameters<typeof failures>) =>
      (await failures(...tools)).map(({ name, reason, remedy }) => {
        assert.ok(remedy !== null && remedy.length > 0, name);
        return `${name}: ${reason}`;
      });
    const none = (await reasons(null, null)).join('\n');
    assert.match(none, /^kvm: .*kvm may not be opened: ENOENT/m);
    assert.match(none, /^firecracker: is not found$/m);
    assert.match(none, /^jailer: is not found$/m);
    const mixed = (await reasons(old, other)).join('\n');
    assert.match(mixed, /^firecracker: .* is 1\.7\.0, older than 1\.8$/m);
    assert.match(mixed, /^firecracker release: firecracker is 1\.7\.0, and its jailer 1\.16\.1$/m);
    assert.match((await reasons(kvm, '/bin/true')).join('\n'), /^firecracker: .* does not run: /m);
    assert.match((await reasons(kvm, '/bin/true')).join('\n'), /^jailer: .*it does not say its version/m);
  });
});
