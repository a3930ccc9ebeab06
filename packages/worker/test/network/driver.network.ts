import type { Network } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pino, type Logger } from 'pino';
import { after, afterEach, before, describe, test } from 'node:test';
import { Networks } from '../../src/network/networks.ts';
import { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';
import type { DriverTarget } from '../driver.conformance.ts';
import { HOST_SNAPSHOTS } from '../support/host-snapshots.ts';
import { runAttempt } from '../support/run-attempt.ts';
import { silent } from '../support/run-program.ts';
import { workspace } from '../support/workspace.ts';
import { inLab, isInLab, Lab, PLACES } from './lab.ts';

/**
 * What every driver with a network must do, with a function of its own in a real sandbox: in a lab, as `file`, which is the file that calls this. What a guest
 * may try that has broken out of its function is tested once, in `gate.test.ts`. `onlyTypical` says why only what a driver can do wrong by itself is tried.
 */
export function driverNetwork(
  name: string,
  file: string,
  makeTarget: (restoring: Restoring) => Promise<DriverTarget>,
  { onlyTypical = false }: { readonly onlyTypical?: string | false } = {},
): void {
  if (isInLab) return suite(name, makeTarget, onlyTypical);
  test(`driver ${name}, functions with a network`, async () => {
    const { code, printed } = await inLab(file);
    assert.equal(code, 0, printed);
  });
}

/** For a driver that starts from snapshots. */
export interface Restoring {
  /** The host's own; how often it gave one is counted. */
  readonly snapshots: SnapshotStore;
  /** A snapshot that does not work is said there. */
  readonly log: Logger;
}

class CountingStore extends SnapshotStore {
  opened = 0;

  override async open(...args: Parameters<SnapshotStore['open']>) {
    const snapshot = await super.open(...args);
    this.opened += 1;
    return snapshot;
  }
}

const LISTED = 'example.org';

/** Looks around, and prints what it found. */
const LOOK = `
import json, os, socket, urllib.request
found = {}
def tries(what, act):
    try: found[what] = act()
    except OSError as error: found[what] = "no"
fetch = lambda url: (lambda: urllib.request.urlopen(url, timeout=10).read().decode())
tries("listed", fetch("http://${LISTED}/"))
tries("unlisted", fetch("http://example.com/"))
tries("address", fetch("http://${PLACES.other}/"))
tries("redirect", fetch("http://${LISTED}/to/${PLACES.metadata}"))
tries("metadata", fetch("http://${PLACES.metadata}/"))
tries("host", fetch("http://${PLACES.worker}/"))
tries("gate", lambda: socket.create_connection(("10.0.0.1", 4000), 3).recv(1).hex() or "no")
tries("interfaces", lambda: sorted(name for _, name in socket.if_nameindex()))
tries("server", lambda: open("/etc/resolv.conf").read())
tries("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).sendto(b"x" * 8, ("${PLACES.listed}", 0)))
tries("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).bind(("eth0", 0)) or "yes")
def own():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), 3): return "yes"
tries("loopback", own)
def through():
    with socket.create_connection(("${LISTED}", 7)) as s:
        s.sendall(b"x" * 100_000); s.shutdown(socket.SHUT_WR)
        return sum(iter(lambda: len(s.recv(65536)), 0))
tries("echo", through)
print(json.dumps(found))`;

/** What a clone has of connections and neighbours before it does anything, and what it reaches. */
const CLONE = `
import json, socket, urllib.request
table = lambda name: [line.split() for line in open(f"/proc/net/{name}").read().splitlines()[1:]]
# Its address, flags (4: for good) and hardware address.
before = [[[row[0], int(row[2], 16) & 4, row[3]] for row in table("arp")], table("tcp"), table("udp")]
found = []
for host in ["${LISTED}", "${PLACES.second}", "${PLACES.metadata}"]:
    try: found.append(urllib.request.urlopen(f"http://{host}/", timeout=10).read().decode())
    except OSError: found.append("no")
with socket.create_connection(("${LISTED}" if found[0] != "no" else "${PLACES.second}", 7)) as s:
    s.sendall(b"x" * 100_000); s.shutdown(socket.SHUT_WR)
    found.append(sum(iter(lambda: len(s.recv(65536)), 0)))
print(json.dumps([before, found]))`;

function suite(name: string, makeTarget: (restoring: Restoring) => Promise<DriverTarget>, skip: string | false): void {
  describe(`driver ${name} with a network`, () => {
    const scope = new AsyncDisposableStack();
    let target: DriverTarget;
    let networks: Networks;
    let lab: Lab;
    let directory: string;
    const snapshots = new CountingStore(HOST_SNAPSHOTS);
    const warnings: string[] = [];

    const run = async (program: string, network: Network) =>
      runAttempt({
        ...target,
        task: { argv: ['/usr/bin/python3', '-c', program], network },
        parts: { networks },
      });

    before(async () => {
      lab = scope.use(await Lab.make());
      directory = join(scope.use(await workspace()).path, 'network');
      const resolve = (asked: string) =>
        Promise.resolve({ addresses: asked === LISTED ? [PLACES.listed] : [PLACES.other], ttlSeconds: 60 });
      networks = scope.use(
        await Networks.open({ directory, serverHost: PLACES.control, proxy: null, log: silent, resolve }),
      );
      const log = pino({ level: 'warn' }, { write: (line) => void warnings.push(line) });
      target = scope.use(await makeTarget({ snapshots, log }));
      await target.driver.prepare();
    });
    after(() => scope.disposeAsync());
    afterEach(async () => {
      assert.deepEqual(await target.leftovers(), [], 'a sandbox left something behind');
      assert.deepEqual(readdirSync(directory), [], 'a gate left something behind');
      assert.equal(await lab.strays(), 0, 'something that is not TCP reached the internet');
    });

    test('what its list names it reaches, by name, and nothing else', { skip }, async () => {
      const { ended, stdout } = await run(LOOK, { mode: 'egress', allow: [LISTED], maxBytes: 1_000_000 });
      assert.deepEqual(ended.outcome, { kind: 'exited', code: 0 }, ended.message ?? '');
      const { raw, packet, ...found } = JSON.parse(stdout) as Record<string, unknown>;
      assert.deepEqual(found, {
        listed: `this is ${PLACES.listed}`,
        ...{ unlisted: 'no', address: 'no', redirect: 'no', metadata: 'no', host: 'no', gate: 'no' },
        interfaces: ['eth0', 'lo'],
        server: 'nameserver 10.0.0.1\n',
        ...{ loopback: 'yes', echo: 100_000 },
      });
      assert.deepEqual([raw, packet], ['no', 'no']);
      const arrivals = await lab.takeArrivals();
      assert.deepEqual(new Set(arrivals.map(({ address }) => address)), new Set([PLACES.listed]));
      const { sentBytes, receivedBytes, ...egress } = ended.usage.egress!;
      assert.equal(egress.connections, 3);
      assert.ok(egress.refused >= 4 && !egress.limited, JSON.stringify(egress));
      assert.ok(sentBytes > 100_000 && receivedBytes > 100_000, `${sentBytes} and ${receivedBytes}`);
    });

    test('two at once, each reaches what its own list has, from a clean start', async () => {
      const isClone = target.driver.capabilities.snapshot;
      const before = snapshots.opened;
      const runs = await Promise.all(
        [LISTED, PLACES.second].map((listed) => run(CLONE, { mode: 'egress', allow: [listed], maxBytes: 1_000_000 })),
      );
      const reached = [PLACES.listed, PLACES.second];
      for (const [index, { ended, stdout }] of runs.entries()) {
        assert.deepEqual(ended.outcome, { kind: 'exited', code: 0 }, ended.message ?? '');
        const [state, found] = JSON.parse(stdout) as unknown[][];
        if (isClone) assert.deepEqual(state, [[['10.0.0.1', 4, '02:00:00:00:00:01']], [], []]);
        const got = reached.map((address, at) => (at === index ? `this is ${address}` : 'no'));
        assert.deepEqual(found, [...got, 'no', 100_000]);
        const { connections, refused, limited } = ended.usage.egress!;
        assert.deepEqual([connections, limited], [2, false]);
        assert.ok(refused >= 2, `${refused}`);
      }
      const arrivals = await lab.takeArrivals();
      assert.deepEqual(new Set(arrivals.map(({ address }) => address)), new Set<string>(reached));
      if (!isClone) return;
      assert.equal(snapshots.opened - before, 2, 'both are clones of the snapshot');
      assert.deepEqual(warnings, []);
    });

    test('without a network it has none, beside those that have', { skip }, async () => {
      const { ended, stdout } = await run('import socket; print([name for _, name in socket.if_nameindex()])', {
        mode: 'none',
      });
      assert.equal(stdout, "['lo']\n");
      assert.equal(ended.usage.egress, undefined);
    });

    test('its bytes are used up, and the attempt says so', { skip }, async () => {
      const program = `
import socket
s = socket.create_connection(("${PLACES.listed}", 19)); s.sendall(b"5000000")
try:
    while s.recv(65536): pass
    print("whole")
except OSError: print("cut")`;
      const { ended, stdout } = await run(program, { mode: 'egress', allow: [PLACES.listed], maxBytes: 500_000 });
      assert.equal(stdout, 'cut\n');
      assert.deepEqual(ended.outcome, { kind: 'exited', code: 0 });
      assert.match(ended.message!, /network .* cut/);
      assert.equal(ended.usage.egress!.limited, true);
    });

    test('a worker that gives no network, what has one is refused and never run without', async () => {
      const { ended } = await runAttempt({
        ...target,
        task: { argv: ['/bin/true'], network: { mode: 'egress', allow: ['*'], maxBytes: 1 } },
      });
      assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'sandbox' });
    });
  });
}
