/**
 * What a function's network costs: the same transfers from a guest through its gate, and from the worker's host itself, over the same plain veth to the
 * same server. In turn, round after round.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { Networks } from '../packages/worker/src/network/networks.ts';
import { hostPython, isInLab, Lab, onLabHost, PLACES, RawGuest } from '../packages/worker/test/network/lab.ts';
import { median, ms, ratio, row } from './table.ts';

const ROUNDS = 7;
const BYTES = 400_000_000;

/** Prints seconds to send, to receive, for one byte there and back, and to connect and get the first byte. */
const MEASURE = `
def timed(act, count=1):
    begin = time.perf_counter()
    for _ in range(count): act()
    return (time.perf_counter() - begin) / count
piece = b"x" * 1_000_000
def send():
    with socket.create_connection(("${PLACES.listed}", 9)) as s:
        for _ in range(${BYTES} // len(piece)): s.sendall(piece)
        s.shutdown(socket.SHUT_WR); s.recv(100)
def receive():
    with socket.create_connection(("${PLACES.listed}", 19)) as s:
        s.sendall(b"${BYTES}")
        into = bytearray(1_000_000)
        while s.recv_into(into): pass
def connect():
    with socket.create_connection(("${PLACES.listed}", 7)) as s: s.sendall(b"x"); s.recv(1)
echo = socket.create_connection(("${PLACES.listed}", 7))
echo.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def turn(): echo.sendall(b"x"); echo.recv(1)
print(json.dumps([timed(send), timed(receive), timed(turn, 500), timed(connect, 20)]))`;

type Times = readonly [send: number, receive: number, turn: number, connect: number];

async function measure(): Promise<void> {
  await using scope = new AsyncDisposableStack();
  const lab = scope.use(await Lab.make());
  const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  const log = pino({ level: 'silent' });
  const networks = scope.use(await Networks.open({ directory, serverHost: PLACES.control, proxy: null, log }));
  const nothing = () => undefined;
  const network = await networks.make({
    name: 'bench',
    network: { mode: 'egress', allow: [PLACES.listed], maxBytes: 2 ** 50 },
    onLimited: nothing,
    onLost: nothing,
  });
  const attached = scope.use(await network.attach({ kind: 'veth', owner: 0, procsFiles: [] }));
  const guest = scope.use(await RawGuest.plug(attached.namespacePath, `cocore-bench-${process.pid}`));
  const ways = [
    { name: 'plain veth', once: () => hostPython(MEASURE), measured: [] as Times[] },
    { name: 'through the gate', once: () => guest.python(MEASURE), measured: [] as Times[] },
  ];
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const way of ways) way.measured.push(JSON.parse(await way.once()) as Times);
    await lab.takeArrivals();
  }
  row(`network, ${ROUNDS} rounds`, 'sent', 'received', 'one byte', 'connection');
  const of = ({ measured }: (typeof ways)[number]) =>
    [0, 1, 2, 3].map((at) => median(measured.map((times) => times[at as 0])));
  const rate = (seconds: number) => `${(BYTES / seconds / 2 ** 20).toFixed(0)} MiB/s`;
  const small = (seconds: number) => `${(seconds * 1e6).toFixed(0)} µs`;
  for (const way of ways) {
    const [send, receive, turn, connect] = of(way);
    row(`  ${way.name}`, rate(send!), rate(receive!), small(turn!), ms(connect! * 1000));
  }
  const [plain, gate] = ways.map(of);
  row('  the gate beside it', ...gate!.map((time, at) => ratio(time, plain![at]!)));
}

if (isInLab) await measure();
else {
  const { printed, code } = await onLabHost([fileURLToPath(import.meta.url)]);
  process.stdout.write(printed);
  process.exitCode = code ?? 1;
}
