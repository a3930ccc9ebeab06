import { ROOT_USER } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ociConfig, ociConfigText } from '../src/guest/oci-config.ts';

const spec = {
  argv: ['/bin/bash', '/function/f.sh', 'a b', '$(x)', ''],
  env: { PATH: '/bin', EMPTY: '', WITH: 'a=b' },
  cwd: '/work',
  user: ROOT_USER,
  memoryMiB: 256,
  hostname: 'function',
  hasNetwork: false,
};
const config = ociConfig(spec);
const { linux, process: container, mounts } = config;
const allowed = new Set(
  linux.seccomp.syscalls.filter(({ action }) => action === 'SCMP_ACT_ALLOW').flatMap(({ names }) => names),
);

test('arguments and environment, they are carried unchanged', () => {
  assert.deepEqual(container.args, ['/bin/bash', '/function/f.sh', 'a b', '$(x)', '']);
  assert.deepEqual(container.env, ['PATH=/bin', 'EMPTY=', 'WITH=a=b']);
});

test('the namespaces, the agent’s are joined by path and every other kind is new', () => {
  const kinds = Object.fromEntries(linux.namespaces.map(({ type, path }) => [type, path ?? 'new']));
  assert.deepEqual(kinds, {
    user: '/run/fn/ns/user',
    pid: '/run/fn/ns/pid',
    mount: 'new',
    ipc: 'new',
    uts: 'new',
    network: 'new',
    cgroup: 'new',
  });
});

test('the memory, swap adds nothing to it and the whole group dies together', () => {
  assert.deepEqual(linux.resources.memory, { limit: 256 * 2 ** 20, swap: 256 * 2 ** 20 });
  assert.equal(linux.resources.unified['memory.oom.group'], '1');
  assert.equal(linux.cgroupsPath, '/fn/task');
});

test('the capabilities, they are Docker’s without raw sockets and devices, and none can be gained', () => {
  assert.equal(container.noNewPrivileges, true);
  assert.equal(container.capabilities.bounding.length, 12);
  for (const name of ['CAP_NET_RAW', 'CAP_MKNOD', 'CAP_SYS_ADMIN', 'CAP_SYS_PTRACE', 'CAP_NET_ADMIN']) {
    assert.ok(!container.capabilities.bounding.includes(name), name);
  }
});

test('what a function must not call, no rule allows it', () => {
  const denied = `io_uring_setup io_uring_enter io_uring_register keyctl add_key request_key bpf userfaultfd mount umount2 unshare
    setns pivot_root perf_event_open kexec_load init_module open_by_handle_at clock_settime reboot swapon move_mount open_tree
    fsopen syslog iopl ioperm acct quotactl clone3`;
  for (const name of denied.split(/\s+/)) assert.ok(!allowed.has(name), name);
  assert.equal(linux.seccomp.defaultAction, 'SCMP_ACT_ERRNO');
});

test('sockets, a family is allowed by its own number only, so that no other can be asked for in disguise', () => {
  const rules = linux.seccomp.syscalls.filter(({ names }) => names.includes('socket'));
  const families = rules.map((rule) => {
    assert.ok('args' in rule);
    const [arg] = rule.args;
    assert.equal(rule.args.length, 1);
    assert.equal(arg?.op, 'SCMP_CMP_EQ');
    assert.equal(arg?.index, 0);
    return arg?.value;
  });
  assert.deepEqual(families, [1, 2, 10, 16]);
});

test('what every program needs, it is allowed', () => {
  for (const name of [
    'read',
    'write',
    'openat',
    'execve',
    'mmap',
    'futex',
    'clone',
    'exit_group',
    'wait4',
    'socketpair',
  ]) {
    assert.ok(allowed.has(name), name);
  }
  const listed = linux.seccomp.syscalls[0]?.names ?? [];
  assert.equal(new Set(listed).size, listed.length, 'no name twice');
});

test('mounts, the code is read-only and what is writable in memory is bounded', () => {
  const code = mounts.find(({ destination }) => destination === '/function');
  assert.ok(code?.options.includes('ro'));
  for (const { destination, type, options } of mounts) {
    if (type === 'tmpfs')
      assert.ok(
        options.some((option) => option.startsWith('size=')),
        destination,
      );
    if (destination === '/sys') assert.ok(options.includes('ro'));
  }
  for (const path of ['/proc/kcore', '/proc/keys', '/sys/firmware']) assert.ok(linux.maskedPaths.includes(path), path);
  assert.ok(linux.readonlyPaths.includes('/proc/sys'));
});

test('another user than root, it has no capabilities', () => {
  const user = { uid: 1000, gid: 100, additionalGids: [5] };
  const { process } = ociConfig({
    argv: ['/bin/true'],
    env: {},
    cwd: '/',
    user,
    memoryMiB: 128,
    hostname: 'function',
    hasNetwork: false,
  });
  assert.deepEqual(process.user, user);
  assert.deepEqual([process.capabilities.effective, process.capabilities.permitted], [[], []]);
  assert.deepEqual(config.process.capabilities.effective, config.process.capabilities.bounding);
});

test('the configuration as text, it is the same', () => assert.deepEqual(JSON.parse(ociConfigText(spec)), config));
