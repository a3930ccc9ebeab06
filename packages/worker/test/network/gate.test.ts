import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { awakeClock } from '../../src/host/clock.ts';
import { bareWire } from '../../src/network/bare-wire.ts';
import type { EgressNetwork } from '../../src/network/egress.ts';
import { GATE } from '../../src/network/gate.ts';
import { Networks } from '../../src/network/networks.ts';
import type { Resolve } from '../../src/network/resolve.ts';
import { silent } from '../support/run-program.ts';
import { workspace } from '../support/workspace.ts';
import { inLab, isInLab, Lab, PLACES, RawGuest } from './lab.ts';

const skip = process.geteuid?.() !== 0 ? 'networks are made by root' : !existsSync(GATE) && `${GATE} is not there`;

/** Says which gate is tested. */
const GATE_OF_TEST = 'COCORE_TEST_GATE';
const gateProgram = process.env[GATE_OF_TEST] ?? GATE;

if (isInLab) suite();
else {
  describe('a guest that is root over its end of the wire', { concurrency: true, skip }, () => {
    test('what it must not reach it does not', async () => {
      const { code, printed } = await inLab(fileURLToPath(import.meta.url));
      assert.equal(code, 0, printed);
    });

    test('the same under the sanitizers of the C compiler', async () => {
      await promisify(execFile)('make', [
        '-s',
        '-C',
        fileURLToPath(new URL('../../gate', import.meta.url)),
        'sanitized',
      ]);
      const { code, printed } = await inLab(fileURLToPath(import.meta.url), { [GATE_OF_TEST]: `${GATE}-sanitized` });
      assert.equal(code, 0, printed);
    });
  });
}

interface Plugged extends AsyncDisposable {
  readonly guest: RawGuest;
  readonly network: EgressNetwork;
  /** Times that its limit was met, and that it was lost. */
  readonly told: { limited: number; lost: number };
}

function suite(): void {
  describe('a guest on its end of the wire', () => {
    const scope = new AsyncDisposableStack();
    let lab: Lab;
    let directory: string;
    let networks: Networks;
    let serial = 0;
    const names = new Map<string, string[]>();
    /** How much later than now it is to who keeps answers. */
    let laterMs = 0;
    const asked: string[] = [];
    const resolve: Resolve = (name) => {
      asked.push(name);
      const addresses = names.get(name);
      return Promise.resolve({ addresses: addresses ?? [], ttlSeconds: 1 });
    };

    const open = (proxy: string | null) =>
      Networks.open({
        directory: join(directory, `net${serial}`),
        serverHost: PLACES.control,
        proxy,
        log: silent,
        resolve,
        gateProgram,
        clock: () => awakeClock() + laterMs,
      });

    async function plug(allow: string[], maxBytes = 10_000_000, by = networks): Promise<Plugged> {
      serial += 1;
      await using stack = new AsyncDisposableStack();
      const told = { limited: 0, lost: 0 };
      const network = await by.make({
        name: `n${serial}`,
        network: { mode: 'egress', allow, maxBytes },
        onLimited: () => (told.limited += 1),
        onLost: () => (told.lost += 1),
      });
      stack.defer(() => assert.equal(told.lost, 0, 'the gate died'));
      const attached = stack.use(await network.attach({ kind: 'veth', owner: 0, procsFiles: [] }));
      const guest = stack.use(await RawGuest.plug(attached.namespacePath, `cocore-guest-${process.pid}-${serial}`));
      const owned = stack.move();
      return { guest, network, told, [Symbol.asyncDispose]: () => owned.disposeAsync() };
    }

    before(async () => {
      directory = scope.use(await workspace()).path;
      lab = scope.use(await Lab.make());
      networks = scope.use(await open(null));
    });
    after(() => scope.disposeAsync());
    afterEach(async () => {
      names.clear();
      asked.length = 0;
      laterMs = 0;
      await lab.takeArrivals();
      assert.equal(await lab.strays(), 0, 'something that is not TCP reached the internet');
      assert.deepEqual(
        readdirSync(directory).flatMap((name) => readdirSync(join(directory, name))),
        [],
        'a gate left something behind',
      );
    });

    /** What the guest prints, as JSON. */
    const look = async <T>({ guest }: Plugged, program: string) => JSON.parse(await guest.python(program)) as T;
    const arrived = async () => (await lab.takeArrivals()).map(({ address, port }) => `${address}:${port}`);

    test('names and ranges on its list, it reaches them, from the host’s address', async () => {
      names.set('example.org', [PLACES.listed]);
      names.set('a.b.example.net', [PLACES.second]);
      await using one = await plug(['example.org', '*.example.net:80', `${PLACES.other}:80`]);
      const found = await look<unknown[]>(
        one,
        `
first = [ask("example.org"), get("${PLACES.listed}")]
print(json.dumps(first + [ask("A.B.example.net"), get("${PLACES.second}"), get("${PLACES.other}")]))`,
      );
      const [said, got, below, second, other] = found;
      assert.deepEqual([said, got], [[0, PLACES.listed], `this is ${PLACES.listed}`]);
      assert.deepEqual([below, second], [[0, PLACES.second], `this is ${PLACES.second}`]);
      assert.equal(other, `this is ${PLACES.other}`);
      const from = new Set((await lab.takeArrivals()).map((arrival) => arrival.from));
      assert.deepEqual([...from], [PLACES.worker]);
      const { sentBytes, receivedBytes, ...counts } = await one.network.usage();
      assert.deepEqual(counts, { connections: 3, refused: 0, limited: false });
      assert.ok(sentBytes === 3 * 18 && receivedBytes > 60, `${sentBytes} and ${receivedBytes}`);
    });

    test('mail between servers, it is sent for nobody, whatever the list says', async () => {
      await using one = await plug(['*', PLACES.listed]);
      assert.equal(await look(one, `print(json.dumps(get("${PLACES.listed}", 25)))`), 'ConnectionResetError');
      assert.equal(await look(one, `print(json.dumps(get("${PLACES.listed}")))`), `this is ${PLACES.listed}`);
      assert.deepEqual(await arrived(), [`${PLACES.listed}:80`]);
    });

    test('what is not on the list, no name is answered and no connection made', async () => {
      names.set('example.org', [PLACES.listed]);
      await using one = await plug(['example.org:443', '*.example.net', PLACES.second]);
      const found = await look<unknown[]>(
        one,
        `
print(json.dumps([get("${PLACES.listed}", 443), ask("example.com"), ask("example.net"), ask("xexample.net"), ask("example.org.evil.net"),
  ask("example.org"), get("${PLACES.listed}", 80), get("${PLACES.other}"), ask("example.org", 28), ask("example.org", 16), ask("localhost")]))`,
      );
      assert.deepEqual(found, [
        'ConnectionResetError',
        ...[[3], [3], [3], [3]],
        [0, PLACES.listed],
        ...['ConnectionResetError', 'ConnectionResetError'],
        ...[[0], [0]],
        [0, '127.0.0.1'],
      ]);
      assert.deepEqual([asked, await arrived()], [['example.org'], []]);
      assert.equal((await one.network.usage()).refused, 7);
    });

    test('everything listed, the host, its networks, the control server and what is not public are not reached', async () => {
      // The host itself reaches all of them: what keeps the guest from it is the gate.
      for (const address of Object.values(PLACES)) {
        if (address === PLACES.worker || address === PLACES.lanWorker) continue;
        await new Promise<void>((resolve, reject) => {
          const socket = connect({ host: address, port: 80 }, () => resolve(socket.resetAndDestroy() && undefined));
          socket.once('error', reject);
        });
      }
      await arrived();
      await using one = await plug(['*', '0.0.0.0/0']);
      const { listed, second, other, ...closed } = PLACES;
      const targets = [
        ...Object.values(closed),
        '127.0.0.1',
        '0.0.0.0',
        '10.0.0.1',
        '255.255.255.255',
        '224.0.0.1',
        '81.2.69.143',
      ];
      const found = await look<Record<string, string>>(
        one,
        `print(json.dumps({address: get(address, wait=2) for address in ${JSON.stringify([listed, second, other, ...targets])}}))`,
      );
      for (const [address, got] of Object.entries(found)) {
        const expected = ([listed, second, other] as string[]).includes(address)
          ? `this is ${address}`
          : got.replace(/^this is .*/, 'reached');
        assert.equal(got, expected, address);
      }
      assert.deepEqual(await arrived(), [`${listed}:80`, `${second}:80`, `${other}:80`]);
    });

    test('a name that leads to an address that is closed, or changes to one, is not followed', async () => {
      names.set('inner.example.org', [
        PLACES.private,
        PLACES.metadata,
        PLACES.neighbour,
        PLACES.lanNeighbour,
        '127.0.0.1',
      ]);
      names.set('half.example.org', [PLACES.metadata, PLACES.listed]);
      names.set('turns.example.org', [PLACES.second]);
      await using one = await plug(['*.example.org']);
      const first = await look<unknown[]>(
        one,
        `print(json.dumps([ask("inner.example.org"), ask("half.example.org"), ask("turns.example.org"), get("${PLACES.second}")]))`,
      );
      assert.deepEqual(first, [[3], [0, PLACES.listed], [0, PLACES.second], `this is ${PLACES.second}`]);
      names.set('turns.example.org', [PLACES.metadata]);
      const second = await look<unknown[]>(
        one,
        `print(json.dumps([ask("turns.example.org"), get("${PLACES.second}"), get("${PLACES.metadata}"), get("${PLACES.private}"), get("${PLACES.other}")]))`,
      );
      const [answer, ...rest] = second;
      assert.deepEqual(answer, [0, PLACES.second], 'the answer is kept');
      assert.deepEqual(rest, [`this is ${PLACES.second}`, ...Array<string>(3).fill('ConnectionResetError')]);
    });

    test('a name that leads elsewhere once its answer is old, it is asked again, and what is closed is not reached', async () => {
      names.set('turns.example.org', [PLACES.listed]);
      await using one = await plug(['turns.example.org']);
      const visit = () =>
        look<[number[], string]>(
          one,
          `
code, *addresses = ask("turns.example.org")
print(json.dumps([[code, *addresses], get(addresses[0]) if addresses else "nowhere"]))`,
        );
      assert.deepEqual(await visit(), [[0, PLACES.listed], `this is ${PLACES.listed}`]);
      const { private: inner, metadata, worker, neighbour, lanNeighbour, control } = PLACES;
      for (const closed of ['127.0.0.1', inner, metadata, worker, neighbour, lanNeighbour, control]) {
        names.set('turns.example.org', [closed]);
        laterMs += 31_000;
        assert.deepEqual(await visit(), [[3], 'nowhere'], closed);
        assert.match(
          await look(one, `print(json.dumps(get("${closed}", wait=2)))`),
          /^Connection(?:Reset|Refused)Error$/,
          closed,
        );
      }
      // Beside an open address, a closed one is left out.
      names.set('turns.example.org', [metadata, PLACES.second]);
      laterMs += 31_000;
      assert.deepEqual(await visit(), [[0, PLACES.second], `this is ${PLACES.second}`]);
      assert.equal(asked.length, 9, 'the name was asked for at each visit');
      assert.deepEqual(await arrived(), [`${PLACES.listed}:80`, `${PLACES.second}:80`]);
    });

    test('a redirect to an address that is closed, it leads nowhere', async () => {
      names.set('example.org', [PLACES.listed]);
      await using one = await plug(['example.org']);
      const found = await look<string[]>(
        one,
        `
import urllib.request
ask("example.org")
def fetch(target):
    try: return urllib.request.urlopen(f"http://${PLACES.listed}/to/{target}", timeout=5).read().decode()
    except OSError as error: return str(error)
print(json.dumps([fetch("${PLACES.metadata}"), fetch("${PLACES.lanNeighbour}"), fetch("${PLACES.listed}")]))`,
      );
      assert.match(found[0]!, /reset|Remote end closed/i);
      assert.match(found[1]!, /reset|Remote end closed/i);
      assert.equal(found[2], `this is ${PLACES.listed}`);
      assert.deepEqual(new Set(await arrived()), new Set([`${PLACES.listed}:80`]));
    });

    test('everything that is not TCP, or is sent under another address, goes nowhere', async () => {
      await using one = await plug(['*']);
      const { guest } = one;
      await guest.ip('address', 'add', '81.2.69.140/32', 'dev', 'eth0');
      await guest.ip('-6', 'address', 'add', 'fd00::2/64', 'dev', 'eth0');
      const found = await look<Record<string, string | number>>(
        one,
        `
found = {}
def tries(what, act):
    try: found[what] = act() or "nothing came"
    except OSError as error: found[what] = type(error).__name__
def udp(to, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5); s.sendto(b"x" * 40, (to, port)); return s.recv(100).hex()
def ping():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(0.5); s.sendto(b"\\x08\\x00\\xf7\\xff" + bytes(4), ("${PLACES.listed}", 0)); return s.recv(100).hex()
def six(address):
    with socket.socket(socket.AF_INET6) as s:
        s.settimeout(0.5); s.connect((address, 80)); return "connected"
def as_other(source):
    with socket.socket() as s:
        s.settimeout(0.7); s.bind((source, 0)); s.connect(("${PLACES.listed}", 80)); return "connected"
# A packet by hand: a SYN in two pieces, with a loose source route, from another hardware address.
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)
packet.bind(("eth0", 0)); packet.settimeout(0.5)
MINE, GATE = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
def sum16(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def ip(payload, source="10.0.0.2", flags=0, options=b"", protocol=6):
    header = struct.pack(">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), 1, flags, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton("${PLACES.listed}")) + options
    return header[:10] + struct.pack(">H", sum16(header)) + header[12:] + payload
def syn(source="10.0.0.2"):
    segment = struct.pack(">HHIIBBHHH", 5555, 80, 1, 0, 0x50, 2, 1000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton("${PLACES.listed}") + struct.pack(">BBH", 0, 6, 20)
    return segment[:16] + struct.pack(">H", sum16(pseudo + segment)) + segment[18:]
def answer_to(frame):
    while packet.recv(2000, socket.MSG_DONTWAIT) if waits() else False: pass
    packet.send(frame)
    end = time.time() + 0.5
    while time.time() < end:
        try: got = packet.recv(2000)
        except OSError: break
        if got[12:14] == b"\\x08\\x00" and got[23] == 6 and got[47] & 0x12 == 0x12: return "answered"
        if got[12:14] == b"\\x08\\x06" and got[20:22] == b"\\x00\\x02" and got[6:12] == GATE: return "answered"
import select
def waits(): return select.select([packet], [], [], 0)[0]
def ether(payload, source=MINE, to=GATE, kind=0x800): return to + source + struct.pack(">H", kind) + payload
def arp(sender, mac, target): return struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, mac, socket.inet_aton(sender), bytes(6), socket.inet_aton(target))
OTHER = bytes.fromhex("020000000099")
ALL = b"\\xff" * 6
tries("udp", lambda: udp("${PLACES.listed}", 9999))
tries("quic", lambda: udp("${PLACES.listed}", 443))
tries("dns elsewhere", lambda: udp("${PLACES.other}", 53))
tries("gate", lambda: udp("10.0.0.1", 4000))
tries("ping", ping)
tries("ipv6", lambda: six("2606:4700::1111"))
tries("ipv6 link", lambda: six("fd00::1"))
tries("spoofed", lambda: as_other("81.2.69.140"))
tries("whole", lambda: answer_to(ether(ip(syn()))))
tries("in pieces", lambda: answer_to(ether(ip(syn()[:16], flags=0x2000))) or answer_to(ether(ip(syn()[16:], flags=2))))
tries("with options", lambda: answer_to(ether(ip(syn(), options=bytes([0x83, 7, 4]) + socket.inet_aton("10.0.0.1") + b"\\0"))))
tries("other hardware", lambda: answer_to(ether(ip(syn()), source=OTHER)))
tries("to other hardware", lambda: answer_to(ether(ip(syn()), to=OTHER)))
tries("arp", lambda: answer_to(ether(arp("10.0.0.2", MINE, "10.0.0.1"), to=ALL, kind=0x806)))
tries("arp for another", lambda: answer_to(ether(arp("10.0.0.2", MINE, "${PLACES.worker}"), to=ALL, kind=0x806)))
tries("arp as another", lambda: answer_to(ether(arp("10.0.0.1", MINE, "10.0.0.1"), to=ALL, kind=0x806)))
tries("vlan", lambda: answer_to(ether(struct.pack(">HH", 5, 0x800) + ip(syn()), kind=0x8100)))
print(json.dumps(found))`,
      );
      const { whole, arp, ...rest } = found;
      assert.deepEqual([whole, arp], ['answered', 'answered'], 'what is made by hand is made well');
      for (const [what, got] of Object.entries(rest)) assert.notEqual(got, 'connected', what);
      for (const [what, got] of Object.entries(rest)) assert.notEqual(got, 'answered', what);
      assert.deepEqual(await arrived(), []);
    });

    test('two guests at once, neither reaches the other', async () => {
      await using one = await plug(['*']);
      await using two = await plug(['*']);
      await two.guest.ip('address', 'add', '10.0.0.5/32', 'dev', 'eth0');
      const found = await look<string[]>(
        one,
        `print(json.dumps([get("10.0.0.2"), get("10.0.0.5"), get("10.0.0.1", 4000)]))`,
      );
      for (const got of found) assert.match(got, /Error|timeout/);
    });

    test('ends of both sides and resets are handed on, and bytes arrive whole', async () => {
      await using one = await plug([PLACES.listed]);
      const found = await look<Record<string, unknown>>(
        one,
        `
import hashlib, os, threading
found = {}
data = os.urandom(3_000_000)
with socket.create_connection(("${PLACES.listed}", 7)) as s:
    def give(): s.sendall(data); s.shutdown(socket.SHUT_WR)
    threading.Thread(target=give).start()
    got = b""
    while piece := s.recv(65536): got += piece
    found["echo"] = got == data
with socket.create_connection(("${PLACES.listed}", 9)) as s:
    s.sendall(data); s.shutdown(socket.SHUT_WR)
    found["sink"] = s.recv(100).decode()
with socket.create_connection(("${PLACES.listed}", 99)) as s:
    s.sendall(b"x")
    try: found["reset"] = repr(s.recv(10))
    except OSError as error: found["reset"] = type(error).__name__
found["nobody"] = get("${PLACES.listed}", 81)
print(json.dumps(found))`,
      );
      assert.deepEqual(found, {
        echo: true,
        sink: '3000000',
        reset: 'ConnectionResetError',
        nobody: 'ConnectionResetError',
      });
      const { sentBytes, receivedBytes } = await one.network.usage();
      assert.deepEqual([sentBytes, receivedBytes], [6_000_001, 3_000_007]);
    });

    test('a reader that stops, the writer is stopped and nothing is kept for it', async () => {
      await using one = await plug([PLACES.listed], 1_000_000_000);
      await look(
        one,
        `
import threading
def hold():
    s = socket.create_connection(("${PLACES.listed}", 19)); s.sendall(b"100000000"); time.sleep(2.5); s.close()
threads = [threading.Thread(target=hold) for _ in range(20)]
for t in threads: t.start()
for t in threads: t.join()
print("1")`,
      );
      const { receivedBytes } = await one.network.usage();
      assert.ok(receivedBytes < 100_000_000, `${receivedBytes} of 2,000,000,000 bytes were taken`);
    });

    test('as many bytes as may pass, everything is closed, and the daemon told once', async () => {
      await using one = await plug([PLACES.listed], 1_000_000);
      const found = await look<Record<string, unknown>>(
        one,
        `
found = {}
s = socket.create_connection(("${PLACES.listed}", 19)); s.sendall(b"5000000")
got = 0
try:
    while piece := s.recv(65536): got += len(piece)
    found["end"] = "whole"
except OSError as error: found["end"] = type(error).__name__
found["got"] = got
found["again"] = get("${PLACES.listed}")
print(json.dumps(found))`,
      );
      assert.deepEqual([found['end'], found['again']], ['ConnectionResetError', 'ConnectionResetError']);
      assert.ok((found['got'] as number) <= 1_000_000);
      const usage = await one.network.usage();
      assert.ok(usage.limited && usage.sentBytes + usage.receivedBytes <= 1_000_000, JSON.stringify(usage));
      assert.deepEqual(one.told, { limited: 1, lost: 0 });
    });

    test('more connections at once than may be, the others wait until one ends', async () => {
      await using one = await plug([PLACES.listed], 1_000_000_000);
      const found = await look<number[]>(
        one,
        `
held = []
for _ in range(300):
    s = socket.create_connection(("${PLACES.listed}", 7), 10); s.sendall(b"x"); s.settimeout(3); held.append(s)
def answered(sockets):
    count = 0
    for s in sockets:
        try: count += s.recv(1) == b"x"
        except OSError: pass
    return count
first = answered(held[:256])
held[299].settimeout(0.5)
late = answered(held[299:])
for s in held[:100]: s.close()
for s in held[256:]: s.settimeout(5)
print(json.dumps([first, late, answered(held[256:])]))`,
      );
      assert.deepEqual(found, [256, 0, 44]);
    });

    test('names as a way out, few bytes of them leave', async () => {
      names.set('example.org', [PLACES.listed]);
      await using one = await plug(['*.example.org', 'example.org']);
      const found = await look<{ sent: number; answer: unknown }>(
        one,
        `
import os
sent = 0
end = time.time() + 6
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    while time.time() < end:
        for _ in range(20):
            name = ".".join(os.urandom(30).hex() for _ in range(3)) + ".example.org"
            s.sendto(question(name), ("10.0.0.1", 53)); sent += len(name)
        time.sleep(0.02)
time.sleep(1.5)
print(json.dumps({"sent": sent, "answer": ask("example.org")}))`,
      );
      const leftBytes = asked.reduce((sum, name) => sum + name.length, 0);
      assert.ok(found.sent > 500_000, `${found.sent} bytes were tried`);
      assert.ok(leftBytes <= 33_000, `${leftBytes} bytes left`);
    });

    test('datagrams that are no questions, nothing is answered and everything goes on', async () => {
      names.set('example.org', [PLACES.listed]);
      await using one = await plug(['example.org']);
      const found = await look<unknown>(
        one,
        `
import os
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for size in [0, 1, 11, 12, 17, 100, 512, 513, 1400]: s.sendto(os.urandom(size), ("10.0.0.1", 53))
    s.sendto(question("example.org")[:-1], ("10.0.0.1", 53))
    s.sendto(b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\xc0\\x0c\\0\\1\\0\\1", ("10.0.0.1", 53))
    s.settimeout(0.5)
    try: said = s.recv(600).hex()
    except OSError: said = ""
print(json.dumps([said, ask("example.org")]))`,
      );
      assert.deepEqual(found, ['', [0, PLACES.listed]]);
    });

    test('an operator’s proxy, connections go through it and nothing leaves beside it', async () => {
      await using proxied = await open(`http://${PLACES.lanNeighbour}:3128`);
      names.set('example.org', [PLACES.listed]);
      await using one = await plug(['example.org'], 10_000_000, proxied);
      const found = await look<unknown[]>(
        one,
        `
ask("example.org")
def echo(size):
    s = socket.create_connection(("${PLACES.listed}", 7)); s.sendall(b"x" * size); s.shutdown(socket.SHUT_WR)
    got = 0
    while piece := s.recv(65536): got += len(piece)
    return got
print(json.dumps([get("${PLACES.listed}"), echo(200_000), get("${PLACES.lanNeighbour}"), get("${PLACES.listed}", 81)]))`,
      );
      assert.deepEqual(found.slice(0, 3), [`this is ${PLACES.listed}`, 200_000, 'ConnectionResetError']);
      const arrivals = await lab.takeArrivals();
      assert.deepEqual(
        arrivals
          .filter(({ from }) => from === PLACES.worker || from === PLACES.lanWorker)
          .map(({ address, port }) => `${address}:${port}`),
        Array<string>(3).fill(`${PLACES.lanNeighbour}:3128`),
      );
    });

    test('a sandbox that is started once more, what passed before is counted once, and its bytes are those that are left', async () => {
      const told = { limited: 0, lost: 0 };
      const network = await networks.make({
        name: 'again',
        network: { mode: 'egress', allow: [PLACES.listed], maxBytes: 500_000 },
        onLimited: () => (told.limited += 1),
        onLost: () => (told.lost += 1),
      });
      const echo = async (bytes: number) => {
        await using attached = await network.attach({ kind: 'veth', owner: 0, procsFiles: [] });
        await using guest = await RawGuest.plug(attached.namespacePath, `cocore-guest-${process.pid}-again`);
        const program = `
s = socket.create_connection(("${PLACES.listed}", 7)); got = 0
try:
    for _ in range(${bytes} // 1000): s.sendall(b"x" * 1000); got += len(s.recv(1000, socket.MSG_WAITALL))
except OSError: pass
get("${PLACES.other}")
print(got)`;
        const got = Number(await guest.python(program));
        return { got, usage: await network.usage() };
      };
      const [first, second] = [await echo(100_000), await echo(100_000)];
      assert.deepEqual([first.got, second.got], [100_000, 100_000]);
      const counted = (times: number) => ({
        ...{ sentBytes: times * 100_000, receivedBytes: times * 100_000 },
        ...{ connections: times, refused: times, limited: false },
      });
      assert.deepEqual([first.usage, second.usage], [counted(1), counted(2)]);
      assert.deepEqual(await network.usage(), counted(2), 'also when nothing is attached');
      const third = await echo(300_000);
      assert.ok(third.got <= 50_000 && third.usage.limited, JSON.stringify(third));
      assert.ok(third.usage.sentBytes + third.usage.receivedBytes <= 500_000, JSON.stringify(third));
      assert.deepEqual(told, { limited: 1, lost: 0 });
    });

    test('a wire for a machine that is written down, from it nothing is reached or looked up', async () => {
      await using attached = await bareWire(gateProgram).attach({ kind: 'veth', owner: 0, procsFiles: [] });
      await using guest = await RawGuest.plug(attached.namespacePath, `cocore-guest-${process.pid}-bare`);
      const program = `print(json.dumps([get("${PLACES.listed}", wait=1), ask("example.org", wait=1)]))`;
      assert.deepEqual(JSON.parse(await guest.python(program)), ['TimeoutError', null]);
      assert.deepEqual(await arrived(), []);
    });

    test('a gate that dies, it is told, and what is attached again has a network again', async () => {
      const told = { limited: 0, lost: 0 };
      const network = await networks.make({
        name: 'dies',
        network: { mode: 'egress', allow: [PLACES.listed], maxBytes: 1_000 },
        onLimited: () => (told.limited += 1),
        onLost: () => (told.lost += 1),
      });
      {
        await using attached = await network.attach({ kind: 'veth', owner: 0, procsFiles: [] });
        const pid = Number(/\d+/.exec(attached.namespacePath)![0]);
        process.kill(pid, 'SIGKILL');
        while (told.lost === 0) await new Promise((resolve) => setTimeout(resolve, 10));
        assert.deepEqual(await network.usage(), {
          sentBytes: 0,
          receivedBytes: 0,
          connections: 0,
          refused: 0,
          limited: false,
        });
      }
      await using attached = await network.attach({ kind: 'veth', owner: 0, procsFiles: [] });
      await using guest = await RawGuest.plug(attached.namespacePath, `cocore-guest-${process.pid}-dies`);
      assert.equal((await guest.python(`print(get("${PLACES.listed}"))`)).trim(), `this is ${PLACES.listed}`);
      assert.equal(told.lost, 1);
    });
  });
}
