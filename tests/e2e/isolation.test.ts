import assert from 'node:assert/strict';
import { readFileSync, readlinkSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { monitorOf } from './support/processes.ts';
import { ISOLATION, machineSkip, Stack } from './support/stack.ts';
import { until } from './support/wait.ts';

/** Looks for everything that it must not find, and prints what it found. */
const PROBE = `
import os, socket, sys, json, time
found = {}
found["processes"] = [open(f"/proc/{p}/comm").read().strip() for p in os.listdir("/proc") if p.isdigit()]
found["files"] = sorted(os.listdir("/tmp") + os.listdir("/work"))
found["interfaces"] = os.listdir("/sys/class/net")
def tries(what, act):
    try:
        act()
        found[what] = "allowed"
    except OSError as error:
        found[what] = error.strerror
tries("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
tries("alg", lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))
tries("connect", lambda: socket.create_connection(("10.0.2.2", 80), 2))
tries("port", lambda: open("/dev/vport0p1", "rb"))
tries("disk", lambda: open("/dev/vda", "rb"))
# Where nothing reaps beside it, process 1 is this one.
if os.getpid() != 1:
    tries("agent root", lambda: os.listdir("/proc/1/root"))
    tries("agent memory", lambda: open("/proc/1/mem", "rb"))
tries("image", lambda: open("/function/" + os.path.basename(__file__), "w"))
tries("time", lambda: time.clock_settime(0, 0))
tries("mount", lambda: os.mkdir("/run/fn") or None)
status = open("/proc/self/status").read()
found["status"] = {k: v.strip() for k, v in (l.split(":", 1) for l in status.splitlines()) if k in ("CapEff", "NoNewPrivs", "Seccomp")}
open("/tmp/mine-" + sys.argv[1], "w").write("secret")
open("/work/mine-" + sys.argv[1], "w").write("secret")
print(json.dumps(found), flush=True)
time.sleep(float(sys.argv[2]))
`;

interface Found {
  processes: string[];
  files: string[];
  interfaces: string[];
  status: Record<string, string>;
  [what: string]: unknown;
}

describe('isolation', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev('--cpus', '2');
    await stack.deploy('probe', 'python', PROBE);
    await stack.deploy('lingering', 'bash', 'touch /tmp/mine-0 /work/mine-0; echo up; sleep 600');
  });
  after(async () => stack[Symbol.asyncDispose]());

  const find = async (name: string): Promise<Found> => {
    const ran = await stack.cocore(['run', 'probe', name, '0']);
    assert.equal(ran.code, 0, ran.stderr);
    return JSON.parse(ran.stdout.toString()) as Found;
  };

  test('two executions at once, see nothing of each other, of the agent or of the host', async () => {
    const other = await stack.client.executions.create('lingering', {});
    await until('the other runs', async () => (await stack.client.executions.get(other.id)).output.stdout.bytes > 0);
    const probe = stack.start(['run', 'probe', '1', '600']);
    const [line] = await probe.waitFor('stdout', /^.+\n/m);
    assert.equal(stack.sandboxes().length, 2, 'both are alive');
    const found = JSON.parse(line) as Found;
    probe.child.kill('SIGINT');
    await probe.ended;
    // Where the sandbox has a process that reaps, it is seen.
    assert.deepEqual(
      found.processes.filter((name) => name !== 'init'),
      ['python3'],
    );
    assert.deepEqual(found.files, []);
    assert.deepEqual(found.interfaces, ['lo']);
    for (const what of ['vsock', 'alg', 'connect', 'port', 'disk', 'agent root', 'agent memory', 'image', 'time']) {
      assert.notEqual(found[what], 'allowed', what);
    }
    // gVisor's kernel does not show them.
    if (ISOLATION !== 'gvisor') {
      assert.equal(found.status['NoNewPrivs'], '1');
      assert.equal(found.status['Seccomp'], '2');
    }
    await stack.client.executions.cancel(other.id);
  });

  test('an execution after another, finds a fresh sandbox', async () => {
    await find('2');
    assert.deepEqual((await find('3')).files, []);
  });

  test(
    'the machine monitor, is unprivileged, filtered, and alone in its namespaces and root',
    { skip: machineSkip },
    async () => {
      const { id } = await stack.client.executions.create('lingering', {});
      await until('it runs', async () => (await stack.client.executions.get(id)).phase === 'executing');
      const machine = monitorOf(stack.sandboxes()[0]!);
      const status = readFileSync(`/proc/${machine.pid}/status`, 'utf8');
      const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)![1]!;
      for (const uid of field('Uid').split('\t')) assert.ok(Number(uid) >= 100_000, `uid ${uid}`);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
        assert.equal(BigInt(`0x${field(set)}`), 0n, set);
      assert.equal(field('NoNewPrivs'), '1');
      assert.equal(field('Seccomp'), '2');
      assert.equal(field('Groups'), '');
      for (const name of ['net', 'ipc', 'uts', 'pid', 'mnt']) {
        const own = readlinkSync(`/proc/${machine.pid}/ns/${name}`);
        assert.notEqual(own, readlinkSync(`/proc/self/ns/${name}`), name);
      }
      assert.match(readFileSync(`/proc/${machine.pid}/cgroup`, 'utf8'), /cocore/);
      // Its root is the jail: nothing of the host but what it was given.
      const mounts = readFileSync(`/proc/${machine.pid}/mounts`, 'utf8');
      assert.doesNotMatch(mounts, /^\S+ \/(?:home|root|var|sys)[ /]/m);
      await stack.client.executions.cancel(id);
      await until('its sandbox is gone', () => stack.sandboxes().length === 0, 5_000);
    },
  );
});
