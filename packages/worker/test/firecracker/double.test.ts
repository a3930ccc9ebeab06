import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { groupsToJoin } from '../../../../tests/firecracker-double/jailer-cgroups.ts';
import { doubleSkip } from '../../../../tests/firecracker-double/place.ts';
import { adaptedBootArgs } from '../../../../tests/firecracker-double/qemu-machine.ts';
import { defaultArtifacts } from '../../src/config.ts';
import { readArtifacts } from '../../src/sandbox/microvm/artifacts.ts';
import { firecrackerSkip } from '../support/firecracker-target.ts';
import { eventually, workspace } from '../support/workspace.ts';

/** The double is only worth something if it says no where the real programs do. */

const BIN = fileURLToPath(new URL('../../../../tests/firecracker-double/bin/', import.meta.url));
const skip = doubleSkip();
const isRoot = process.geteuid?.() === 0;

async function run(program: string, ...args: string[]): Promise<{ code: number; said: string }> {
  return promisify(execFile)(join(BIN, program), args).then(
    ({ stdout }) => ({ code: 0, said: stdout }),
    (error: { code: number; stderr: string }) => ({ code: error.code, said: error.stderr }),
  );
}

/** A monitor of the double, outside of any jail. */
async function monitor() {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const socketPath = join(path, 'api.sock');
  const child = spawn(join(BIN, 'firecracker'), ['--api-sock', socketPath, '--id', 'one'], { stdio: 'ignore' });
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  scope.defer(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const file = join(path, 'file');
  await writeFile(file, 'x');
  const ask = async (method: string, url: string, body?: unknown) => {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const sent = request({ socketPath, method, path: url });
      sent.once('response', resolve).once('error', reject);
      sent.end(typeof body === 'string' || body === undefined ? body : JSON.stringify(body));
    });
    return `${response.statusCode} ${await text(response)}`;
  };
  // The socket is there a moment before it is listened on.
  const isAnswered = () =>
    ask('GET', '/').then(
      () => true,
      () => false,
    );
  await eventually('the API', isAnswered);
  const owned = scope.move();
  return { path, file, ask, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const drive = (id: string, path: string, of: object = {}) => ({
  drive_id: id,
  is_root_device: false,
  is_read_only: true,
  path_on_host: path,
  ...of,
});

describe('the double of Firecracker', { skip }, () => {
  test('an unknown argument, it ends with the documented code', async () => {
    const { code, said } = await run('firecracker', '--api-socket', '/x');
    assert.equal(code, 153);
    assert.match(said, /Found argument '--api-socket' which wasn't expected/);
    assert.equal((await run('firecracker', '--id', 'a_b')).code, 153);
  });

  test('before the start, what is wrong is refused in the documented words', async () => {
    await using vmm = await monitor();
    const { ask, file, path } = vmm;
    const refused = async (expected: RegExp, ...call: Parameters<typeof ask>) => {
      const answer = await ask(...call);
      assert.match(answer, /^400 \{"fault_message":/, call.join(' '));
      assert.match(answer, expected);
    };
    assert.match(await ask('GET', '/'), /^200 .*"state":"Not started"/);
    assert.match(await ask('GET', '/version'), /^200 \{"firecracker_version":"1\.16\.1"\}/);
    await refused(/Invalid request method and\/or path: PUT nothing/, 'PUT', '/nothing', {});
    await refused(/Invalid request method/, 'DELETE', '/vsock');
    await refused(/Empty PUT request/, 'PUT', '/vsock');
    await refused(/deserializing the json body/, 'PUT', '/vsock', '{');
    await refused(/unknown field `vsock_ids`/, 'PUT', '/vsock', { guest_cid: 3, uds_path: '/x', vsock_ids: '1' });
    await refused(/invalid value: integer `2`/, 'PUT', '/vsock', { guest_cid: 2, uds_path: '/x' });
    await refused(/memory size \(MiB\) is either 0/, 'PUT', '/machine-config', { vcpu_count: 1, mem_size_mib: 0 });
    await refused(/kernel file cannot be opened/, 'PUT', '/boot-source', { kernel_image_path: join(path, 'no') });
    await refused(/id from the path does not match/, 'PUT', '/drives/one', drive('two', file));
    await refused(/can only contain alphanumeric/, 'PUT', '/drives/o-e', drive('o-e', file));
    await refused(/Unable to open/, 'PUT', '/drives/one', drive('one', join(path, 'no')));
    await refused(/without kernel configuration/, 'PUT', '/actions', { action_type: 'InstanceStart' });
    await refused(/not supported before starting/, 'PUT', '/actions', { action_type: 'FlushMetrics' });
    await refused(/not supported before starting/, 'PATCH', '/vm', { state: 'Paused' });
    await refused(/not supported before starting/, 'PATCH', '/drives/one', { drive_id: 'one' });
    assert.match(await ask('PUT', '/drives/one', drive('one', file, { is_root_device: true })), /^204/);
    await refused(
      /root block device already exists/,
      'PUT',
      '/drives/two',
      drive('two', file, { is_root_device: true }),
    );
    const mem_backend = { backend_type: 'File', backend_path: file };
    await refused(/not allowed after configuring/, 'PUT', '/snapshot/load', { snapshot_path: file, mem_backend });
    assert.match(await ask('PUT', '/metrics', { metrics_path: file }), /^204/);
    await refused(/already initialized/, 'PUT', '/metrics', { metrics_path: file });
  });

  test(
    'network cards, what is wrong is refused in Firecracker’s words',
    { skip: isRoot ? false : 'taps are root’s' },
    async () => {
      await using vmm = await monitor();
      const tap = `cocoredbl${process.pid}`.slice(0, 15);
      const put = (id: string, host_dev_name: string, guest_mac?: string, iface_id = id) =>
        vmm.ask('PUT', `/network-interfaces/${id}`, { iface_id, host_dev_name, ...(guest_mac ? { guest_mac } : {}) });
      const opened = 'Network config error: Could not create the network device: Open tap device failed: ';
      const invalid = (why: string, name: string) =>
        `${opened}Error while creating ifreq structure: ${why}. Invalid TUN/TAP Backend provided by ${name}. Check our documentation on setting up the network devices.`;
      const refused = async (why: string, answer: Promise<string>) =>
        assert.equal(await answer, `400 ${JSON.stringify({ fault_message: why })}`);
      await refused('API Resource IDs can only contain alphanumeric characters and underscores.', put('o-e', tap));
      await refused(
        'The id from the path [one] does not match the id from the body [two]!',
        put('one', tap, undefined, 'two'),
      );
      await refused(
        'An error occurred when deserializing the json body of a request: The provided MAC address is invalid..',
        put('one', tap, '02:00:00:00:00'),
      );
      await refused(`${opened}Invalid interface name`, put('one', 'a-name-that-is-too-long'));
      await refused(invalid('Invalid argument (os error 22)', 'lo'), put('one', 'lo'));
      assert.match(await put('one', tap, '02:00:00:00:00:0A'), /^204/);
      await refused(
        'Network config error: The MAC address is already in use: 02:00:00:00:00:0a',
        put('two', `${tap}b`.slice(1), '02:00:00:00:00:0a'),
      );
      await refused(invalid('Device or resource busy (os error 16)', tap), put('two', tap));
      assert.match(await put('one', tap), /^204/, 'the same card, once more');
    },
  );

  test(
    'snapshots and drives of a machine that runs, what is wrong is refused',
    { skip: firecrackerSkip() },
    async () => {
      await using vmm = await monitor();
      const { ask, file, path } = vmm;
      const { kernel } = readArtifacts(defaultArtifacts(process.env));
      const files = { snapshot_path: join(path, 'state'), mem_file_path: join(path, 'memory') };
      assert.match(await ask('PUT', '/snapshot/create', files), /^400 .*not supported before starting/);
      assert.match(await ask('PUT', '/drives/one', drive('one', file)), /^204/);
      const tap = `cocoredbs${process.pid}`.slice(0, 15);
      const networkCard = { iface_id: 'network', host_dev_name: tap };
      assert.match(await ask('PUT', '/network-interfaces/network', networkCard), /^204/);
      assert.match(await ask('PUT', '/boot-source', { kernel_image_path: kernel }), /^204/);
      assert.match(await ask('PUT', '/actions', { action_type: 'InstanceStart' }), /^204/);
      const card = { iface_id: 'one', host_dev_name: 'any' };
      assert.match(await ask('PUT', '/network-interfaces/one', card), /^400 .*not supported after starting/);
      assert.match(await ask('PUT', '/snapshot/create', files), /^400 .*Cannot save the microVM state/);
      assert.match(await ask('PUT', '/snapshot/load', { ...files }), /^400 .*not supported after starting/);
      assert.match(await ask('PATCH', '/drives/two', { drive_id: 'two', path_on_host: file }), /^400 .*not found: two/);
      const nowhere = { drive_id: 'one', path_on_host: join(path, 'no') };
      assert.match(await ask('PATCH', '/drives/one', nowhere), /^400 .*Unable to open/);
      assert.match(await ask('PATCH', '/vm', { state: 'Paused' }), /^204/);
      assert.match(
        await ask('PUT', '/snapshot/create', { ...files, mem_file_path: join(path, 'no', 'memory') }),
        /^400 .*memory backing file/,
      );
      assert.match(await ask('PUT', '/snapshot/create', files), /^204/);
      const mem_backend = { backend_type: 'File', backend_path: files.mem_file_path };
      // The first machine has its tap.
      const refusals: [object[], RegExp][] = [
        [[], new RegExp(`Net: Failed to create a network device: .* \\(os error 16\\).* by ${tap}\\.`)],
        [
          [{ iface_id: 'other', host_dev_name: tap }],
          /Failed to get snapshot state from file: Unknown Network Device\./,
        ],
      ];
      for (const [network_overrides, expected] of refusals) {
        await using vain = await monitor();
        const body = { snapshot_path: files.snapshot_path, mem_backend, network_overrides };
        const answer = await vain.ask('PUT', '/snapshot/load', body);
        assert.match(answer, /^400 .*Load snapshot error: Failed to restore from snapshot: /);
        assert.match(answer, expected);
      }
      await using other = await monitor();
      assert.match(
        await other.ask('PUT', '/snapshot/load', { snapshot_path: files.snapshot_path }),
        /^400 .*missing field/,
      );
      const load = {
        snapshot_path: files.snapshot_path,
        mem_backend,
        network_overrides: [{ iface_id: 'network', host_dev_name: `${tap}2`.slice(1) }],
      };
      assert.match(await other.ask('PUT', '/snapshot/load', load), /^204/);
      assert.match(await other.ask('GET', '/'), /"state":"Paused"/);
      assert.match(await other.ask('PATCH', '/vm', { state: 'Resumed' }), /^204/);
      assert.match(await other.ask('GET', '/'), /"state":"Running"/);
    },
  );

  test('the vsock’s socket, nobody is reached where nobody listens', async () => {
    await using vmm = await monitor();
    const uds_path = join(vmm.path, 'v.sock');
    assert.match(await vmm.ask('PUT', '/vsock', { guest_cid: 3, uds_path }), /^204/);
    for (const said of ['CONNECT 1024\n', 'CONNECT 52\n', 'HELLO\n', 'x'.repeat(40)]) {
      const socket = createConnection(uds_path);
      socket.write(said);
      // Cut off while it still writes, the connection may be reset instead of ended.
      const heard = await text(socket).catch((error: NodeJS.ErrnoException) =>
        ['ECONNRESET', 'EPIPE'].includes(error.code ?? '') ? '' : Promise.reject(error),
      );
      assert.equal(heard, '', said);
    }
  });
});

describe('the double of the jailer', { skip }, () => {
  const exec = join(BIN, 'firecracker');
  const common = ['--id', 'one', '--exec-file', exec, '--uid', '201', '--gid', '202'];

  test('what the real one does not take, it does not take', async () => {
    await using directory = await workspace();
    const base = ['--chroot-base-dir', directory.path];
    const refused = async (expected: RegExp, ...args: string[]) => {
      const { code, said } = await run('jailer', ...args);
      assert.equal(code, 1, args.join(' '));
      assert.match(said, expected);
    };
    await refused(/'--no-seccomp' which wasn't expected/, ...common, ...base, '--no-seccomp');
    await refused(/'extra' which wasn't expected/, ...common, ...base, 'extra');
    await refused(/'gid' is required/, ...common.slice(0, 6));
    await refused(/'uid' was provided more than once/, ...common, ...base, '--uid', '1');
    await refused(/'netns' requires a value/, ...common, ...base, '--netns', '--daemonize');
    await refused(/Invalid char \(_\) at position 1/, '--id', 'a_b', ...common.slice(2), ...base);
    await refused(/Invalid len \(65\)/, '--id', 'a'.repeat(65), ...common.slice(2), ...base);
    await refused(/Invalid uid: -1/, ...common.slice(0, 4), '--uid', '-1', '--gid', '1', ...base);
    await refused(/ENOENT/, ...common, '--chroot-base-dir', join(directory.path, 'no'));
    await refused(/Invalid resource argument: core/, ...common, ...base, '--resource-limit', 'core=0');
    await refused(/Invalid format for resources limits/, ...common, ...base, '--resource-limit', 'fsize');
    await refused(/invalid cgroup version/, ...common, ...base, '--cgroup-version', '3');
    await refused(/Parent cgroup path is invalid/, ...common, ...base, '--parent-cgroup', '../up');
    await refused(/Invalid format for cgroups/, ...common, ...base, '--cgroup', 'memory.max');
    assert.deepEqual(await readdir(directory.path), [], 'a refusal makes nothing');
  });

  test('groups, they are those of the documentation', async () => {
    await using directory = await workspace();
    const { path } = directory;
    const mounts = `cgroup ${path}/cpu cgroup rw,cpu 0 0\ncgroup2 ${path}/unified cgroup2 rw 0 0\n`;
    const groups = (version: string, properties: string[], parent = 'up/run') =>
      groupsToJoin({ version, parent, properties, id: 'one', mounts }).map((group) => [group.path, group.membersFile]);
    assert.deepEqual(groups('1', []), []);
    assert.deepEqual(groups('2', []), [], 'a parent that is not there is not made');
    await mkdir(join(path, 'unified/up/run'), { recursive: true });
    assert.deepEqual(groups('2', []), [[`${path}/unified/up/run`, 'cgroup.procs']]);
    assert.deepEqual(groups('1', ['cpu.shares=2']), [[`${path}/cpu/up/run/one`, 'tasks']]);
    assert.deepEqual(groups('2', ['cpu.max=1', 'memory.max=1']), [[`${path}/unified/up/run/one`, 'cgroup.procs']]);
    assert.throws(() => groups('1', ['memory.limit_in_bytes=1']), /Controller memory is unavailable/);
  });

  test('a jail, it is laid out as documented', { skip: isRoot ? false : 'a jail is made by root' }, async () => {
    await using directory = await workspace();
    const script = join(directory.path, 'vmm');
    await writeFile(script, '#!/bin/sh\nid -u; id -g; echo "$@"; ls /dev /; exit 7\n', { mode: 0o755 });
    const base = join(directory.path, 'jails');
    await mkdir(base);
    const args = ['--id', 'one', '--exec-file', script, '--uid', '201', '--gid', '202'];
    const jailer = promisify(execFile)('unshare', [
      ...['--pid', '--fork', '--', join(BIN, 'jailer'), ...args, '--chroot-base-dir', base],
      ...['--', '--api-sock', '/a'],
    ]);
    const { code, stdout } = await jailer.then(
      () => assert.fail('the program ends with 7'),
      (error: { code: number; stdout: string }) => error,
    );
    assert.equal(code, 7);
    assert.match(stdout, /^201\n202\n--id one --start-time-us \d+ --start-time-cpu-us \d+ .*--api-sock \/a\n/);
    const root = join(base, 'vmm/one/root');
    assert.equal(await readFile(join(root, 'vmm'), 'utf8'), await readFile(script, 'utf8'), 'the program is copied');
    assert.equal(await readFile(join(root, 'vmm.pid'), 'utf8'), '1');
    const kvm = await stat(join(root, 'dev/kvm'));
    assert.ok(kvm.isCharacterDevice() && kvm.rdev === 0x0ae8 && kvm.uid === 201 && kvm.gid === 202);
    assert.equal((await stat(root)).uid, 201);
  });
});

test('what the kernel is told, it is changed only where the hardware differs', () => {
  const given = 'console=ttyS0 reboot=k i8042.noaux cocore.vsock=1024 cocore.drives=a,b';
  assert.equal(adaptedBootArgs(given, null), 'console=ttyS0 reboot=t cocore.drives=a,b');
  assert.match(adaptedBootArgs(given, 2_400_000), /reboot=t .* tsc=reliable tsc_early_khz=2400000$/);
});
