import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile, readlink, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Cgroup } from '../src/cgroup/cgroup.ts';
import { openCgroups } from '../src/cgroup/open.ts';
import type { OciRuntime } from '../src/sandbox/oci/runtimes.ts';
import { loopsBelow, ociTarget } from './support/oci-target.ts';
import { runProgram, startProgram } from './support/run-program.ts';
import { eventually } from './support/workspace.ts';

/** Looks for everything that it must not find, and prints what it found. */
const LOOK = `
import json, os, socket
found = {}
def tries(what, act):
    try:
        value = act()
        found[what] = value if isinstance(value, (str, list)) else "allowed"
    except OSError as error:
        found[what] = error.strerror
read = lambda path: (lambda: open(path).read().strip())
processes = [p for p in os.listdir("/proc") if p.isdigit()]
found["processes"] = sorted(open(f"/proc/{p}/comm").read().strip() for p in processes)
found["hostname"] = os.uname().nodename
found["files"] = os.listdir("/tmp") + os.listdir("/work")
found["devices"] = os.listdir("/dev")
found["status"] = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
tries("interfaces", lambda: [name for _, name in socket.if_nameindex()])
for path in ["/proc/cmdline", "/proc/diskstats", "/proc/kallsyms", "/proc/sys/kernel/random/boot_id", "/proc/swaps", "/proc/1/environ"]:
    tries(path, read(path))
for path in ["/sys/block", "/sys/class/dmi", "/sys/module", "/proc/1/root", "/proc/1/fd"]:
    tries(path, lambda: os.listdir(path))
found["paths"] = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)] + open("/proc/self/mountinfo").read().splitlines()
tries("connect", lambda: socket.create_connection(("10.0.2.2", 80), 2))
tries("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
tries("disk", lambda: os.mknod("/work/disk", 0o60600, os.makedev(7, 0)))
tries("code", lambda: open("/function/new", "w"))
tries("sysctl", lambda: open("/proc/sys/kernel/hostname", "w"))
tries("raise", lambda: os.nice(-1))
tries("stdout", lambda: open("/dev/stdout", "w").close())
tries("kill init", lambda: os.kill(1, 9) if open("/proc/1/comm").read().strip() == "init" else None)
open("/work/mine", "w").close()
print(json.dumps(found), flush=True)
`;

interface Found {
  processes: string[];
  files: string[];
  devices: string[];
  hostname: string;
  status: Record<string, string>;
  [what: string]: unknown;
}

const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** What stands between a function and the host, from inside and from outside. */
export function ociConfinement(runtime: OciRuntime, tag: string): void {
  describe(`${runtime.name} confinement`, () => {
    let target: Awaited<ReturnType<typeof ociTarget>>;
    const spec = (name: string) => {
      const { imagePath, codePath } = target;
      return { name, memoryMiB: 128, cpus: 1, scratchMiB: 64, imagePath, codePath };
    };
    const group = async (name: string) => (await openCgroups()).open(`${tag}.${name}`);
    before(async () => {
      target = await ociTarget(runtime, tag);
      await target.driver.prepare();
    });
    after(() => target[Symbol.asyncDispose]());

    test('a function beside another, it sees nothing of it, of the host, or of a network', async () => {
      await using _other = await startProgram(target.driver, spec('other'), target.argv(['sleep:60000']));
      const { stdout, stderr } = await runProgram(target.driver, spec('look'), ['/usr/bin/python3', '-c', LOOK]);
      const found = JSON.parse(stdout.toString() || JSON.stringify(stderr.toString())) as Found;
      assert.deepEqual(found.processes, runtime.hostKernel ? ['init', 'python3'] : ['python3']);
      assert.equal(found.hostname, 'function');
      assert.notEqual(found.hostname, hostname());
      assert.deepEqual(found.files, []);
      // gVisor's kernel has a /dev/fuse and a /dev/net of its own.
      const hosts = runtime.hostKernel
        ? /^(?:sd|vd|nvme|loop|kvm|mem|kmsg|fuse|net)/
        : /^(?:sd|vd|nvme|loop|kvm|mem|kmsg)/;
      assert.deepEqual(
        found.devices.filter((name) => hosts.test(name)),
        [],
      );
      assert.deepEqual(found['interfaces'], ['lo']);
      assert.ok(!JSON.stringify(found['paths']).includes(target.path), 'a path of the host');
      for (const what of ['connect', 'vsock', 'disk', 'code']) {
        assert.notEqual(found[what], 'allowed', what);
      }
      assert.equal(found['stdout'], 'allowed', 'a stream that can be opened again');
      if (runtime.hostKernel) {
        assert.equal(found.status['Seccomp'], '2');
        assert.notEqual(found['sysctl'], 'allowed');
        assert.notEqual(found['raise'], 'allowed');
        assert.equal(found.status['NoNewPrivs'], '1');
        assert.deepEqual(found['/proc/1/root'], 'Permission denied');
        assert.deepEqual(found['/proc/1/fd'], 'Permission denied');
        for (const name of ['cmdline', 'diskstats', 'kallsyms', 'swaps', 'sys/kernel/random/boot_id']) {
          assert.equal(found[`/proc/${name}`], '', name);
        }
        for (const path of ['/sys/block', '/sys/class/dmi', '/sys/module']) {
          assert.ok(Array.isArray(found[path]) ? found[path].length === 0 : found[path] !== 'allowed', path);
        }
      } else {
        assert.notEqual(found['/proc/cmdline'], (await readFile('/proc/cmdline', 'latin1')).trim());
      }
      for (const set of ['CapEff', 'CapBnd']) assert.equal(BigInt(`0x${found.status[set]}`) & FORBIDDEN, 0n, set);
    });

    test('two sandboxes, from outside each has its own ids, namespaces and group, and none is the host’s root', async () => {
      await using one = await startProgram(target.driver, spec('one'), target.argv(['sleep:60000']));
      await using two = await startProgram(target.driver, spec('two'), target.argv(['sleep:60000']));
      await Promise.all([one.started, two.started]);
      const bases = new Set<number>();
      const namespaces = new Set<string>();
      for (const name of ['one', 'two']) {
        // The runtime's own processes may still be on their way out.
        const pids = await settled(await group(name));
        assert.ok(pids.length >= 3, 'launcher, keeper and function');
        const owners = await Promise.all(pids.map(idsOf));
        for (const uid of owners.flat()) assert.ok(uid >= 0x7000_0000, `${name}: id ${uid}`);
        const ranges = new Set(owners.flat().map((uid) => Math.floor(uid / 65_536)));
        assert.equal(ranges.size, 1, 'one range a sandbox');
        bases.add([...ranges][0]!);
        for (const kind of ['mnt', 'net', 'ipc', 'uts']) {
          const links = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/ns/${kind}`)));
          assert.ok(!links.includes(await readlink(`/proc/self/ns/${kind}`)), `${name} ${kind}`);
          for (const link of links) namespaces.add(`${name} ${link}`);
        }
        for (const pid of pids) {
          const mounts = await readFile(`/proc/${pid}/mounts`, 'latin1');
          assert.doesNotMatch(mounts, /^\S+ \/(?:home|root|var)[ /]/m);
        }
      }
      assert.equal(bases.size, 2);
      const links = [...namespaces].map((entry) => entry.split(' ')[1]);
      assert.equal(new Set(links).size, links.length, 'no namespace is shared');
    });

    test('a function that writes to a full disk, it gets the error and the host keeps its space', async () => {
      const script = 'head -c 200M /dev/zero >/work/a; echo "$?"; rm /work/a; echo small >/tmp/b && cat /tmp/b';
      const { stdout, stderr, end } = await runProgram(target.driver, spec('full'), ['/bin/bash', '-c', script]);
      assert.match(stderr.toString(), /No space left on device/, JSON.stringify(end));
      assert.equal(stdout.toString(), '1\nsmall\n');
    });

    test('a command that is not there, the runtime’s reason is told', async () => {
      const { end } = await runProgram(target.driver, spec('absent'), ['/bin/absent']);
      assert.ok('type' in end && end.type === 'FAULT' && end.stage === 'start', JSON.stringify(end));
      assert.match(end.message, /no such file|not found/i);
    });

    test('an image that is none, it is told as one', async () => {
      const broken = { ...spec('broken'), imagePath: fileURLToPath(import.meta.url) };
      const { end } = await runProgram(target.driver, broken, target.argv(['exit:0']));
      assert.ok('type' in end && end.type === 'FAULT' && end.stage === 'image', JSON.stringify(end));
    });

    test('a process that outlives the first, it does not hold the end', async () => {
      const script = 'sleep 60 & setsid sleep 60 & echo done';
      const { stdout, end } = await runProgram(target.driver, spec('orphan'), ['/bin/bash', '-c', script]);
      assert.equal(stdout.toString(), 'done\n');
      assert.ok('type' in end && end.type === 'EXIT' && end.code === 0, JSON.stringify(end));
    });

    test('a daemon killed with SIGKILL, its container dies with it and its next life removes what is left', async () => {
      const path = fileURLToPath(new URL('support/hold-container.ts', import.meta.url));
      const child = spawn(process.execPath, [path, runtime.name, tag], { stdio: ['pipe', 'pipe', 'inherit'] });
      const lines = createInterface({ input: child.stdout });
      const line = await new Promise<string>((resolve, reject) => {
        lines.once('line', resolve);
        child.once('exit', () => reject(new Error('the holder ended early')));
      });
      const held = JSON.parse(line) as { pids: number[]; path: string };
      assert.ok((await loopsBelow(held.path)).length >= 1, 'its disk is mounted');
      child.removeAllListeners('exit');
      const exited = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await exited;
      await eventually('its processes are gone', () => !held.pids.some(alive), 10_000);
      await eventually('its mounts are gone', async () => (await loopsBelow(held.path)).length === 0, 2_000);
      const cgroups = await openCgroups();
      const ours = async () => (await cgroups.list()).filter((name) => name === `${tag}.held`);
      assert.deepEqual(await ours(), [`${tag}.held`], 'the dead daemon’s group is there');
      await using next = await ociTarget(runtime, tag);
      await next.driver.prepare();
      assert.deepEqual(await ours(), []);
      await rm(held.path, { recursive: true, force: true });
    });
  });
}

/** SYS_ADMIN, SYS_PTRACE, SYS_MODULE, SYS_RAWIO, NET_ADMIN, NET_RAW, MKNOD, SYS_TIME, SYS_BOOT, BPF. */
const FORBIDDEN = [21, 19, 16, 17, 12, 13, 27, 25, 22, 39].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);

/** The processes of a group, once none of them has come or gone for a while. */
async function settled(group: Cgroup): Promise<number[]> {
  for (let before = await group.pids(); ;) {
    await sleep(100);
    const pids = await group.pids();
    if (pids.join() === before.join()) return pids;
    before = pids;
  }
}

async function idsOf(pid: number): Promise<number[]> {
  const status = await readFile(`/proc/${pid}/status`, 'latin1');
  return [...status.matchAll(/^[UG]id:\t(.*)$/gm)].flatMap(([, ids]) => ids!.split('\t').map(Number));
}
