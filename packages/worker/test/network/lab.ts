import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
const run = async (program: string, ...args: string[]) => (await execute(program, args, { env: { PATH } })).stdout;

/** Says that this process is on the lab's worker host. */
const INSIDE = 'COCORE_TEST_LAB';
const INTERNET = fileURLToPath(new URL('internet.ts', import.meta.url));

/** Addresses of the lab: public ones, since what is tested is what becomes of them. No packet leaves these namespaces. */
export const PLACES = {
  /** The worker's own, on a network with public addresses, and a neighbour there. */
  worker: '81.2.69.142',
  neighbour: '81.2.69.133',
  /** Its private network, and a neighbour there. */
  lanWorker: '192.168.7.2',
  lanNeighbour: '192.168.7.9',
  /** On the internet. */
  listed: '93.184.216.34',
  second: '93.184.216.35',
  other: '151.101.1.69',
  control: '45.55.41.223',
  /** What the worker's router leads to, and nobody else should. */
  metadata: '169.254.169.254',
  private: '10.200.0.1',
} as const;

const ROUTER = '81.2.69.129';

/** Of the program in the lab's internet, see `internet.ts`. */
export interface Arrival {
  readonly address: string;
  readonly port: number;
  readonly from: string;
}

let labs = 0;

/** Runs a test file on a host of its own, which is a network namespace: the same file, with `isInLab` true. */
export const inLab = (file: string, more: Record<string, string> = {}) =>
  onLabHost(['--test', '--test-reporter=spec', file], more);

/** Runs Node on a host of its own. */
export async function onLabHost(
  args: readonly string[],
  more: Record<string, string> = {},
): Promise<{ code: number | null; printed: string }> {
  labs += 1;
  const name = `cocore-lab-${process.pid}-${labs}`;
  await run('ip', 'netns', 'add', name);
  try {
    // Else the runner takes it for one of its own files.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const child = spawn('nsenter', [`--net=/run/netns/${name}`, process.execPath, ...args], {
      env: { ...env, ...more, [INSIDE]: name },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let printed = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { code, printed };
  } finally {
    await run('ip', 'netns', 'delete', name);
  }
}

export const isInLab = process.env[INSIDE] !== undefined;

/** Around the worker host that this process is on: the internet, its neighbours, and what only the host may reach. */
export class Lab implements AsyncDisposable {
  readonly #internet: string;
  readonly #child: ChildProcess;
  #arrivals: Arrival[] = [];
  #told: () => void = () => undefined;

  private constructor(internet: string, child: ChildProcess) {
    this.#internet = internet;
    this.#child = child;
  }

  static async make(): Promise<Lab> {
    const internet = `${process.env[INSIDE]}-net`;
    await run('ip', 'netns', 'add', internet);
    const there = (...command: string[]) => run('ip', '-n', internet, ...command);
    await run('ip', 'link', 'set', 'lo', 'up');
    await there('link', 'set', 'lo', 'up');
    for (const [here, address, peer, peers] of [
      ['up0', `${PLACES.worker}/28`, 'down0', [`${ROUTER}/28`, `${PLACES.neighbour}/28`]],
      ['lan0', `${PLACES.lanWorker}/24`, 'down1', [`${PLACES.lanNeighbour}/24`]],
    ] as const) {
      await run('ip', 'link', 'add', here, 'type', 'veth', 'peer', 'name', peer, 'netns', internet);
      await run('ip', 'address', 'add', address, 'dev', here);
      await run('ip', 'link', 'set', here, 'up');
      for (const one of peers) await there('address', 'add', one, 'dev', peer);
      await there('link', 'set', peer, 'up');
    }
    await run('ip', 'route', 'add', 'default', 'via', ROUTER);
    const { listed, second, other, control, metadata, private: inner } = PLACES;
    for (const address of [listed, second, other, control, metadata, inner]) {
      await there('address', 'add', `${address}/32`, 'dev', 'lo');
    }
    // Whatever is not TCP that comes from the worker's host is counted.
    const watch = 'add table ip watch; add chain ip watch in { type filter hook prerouting priority -400; }; ';
    const inside = ['ip', 'netns', 'exec', internet] as const;
    await run(...inside, 'nft', `${watch} add rule ip watch in iifname "down*" ip protocol != tcp counter`);
    const child = spawn('nsenter', [`--net=/run/netns/${internet}`, process.execPath, INTERNET], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lab = new Lab(internet, child);
    const ready = Promise.withResolvers<void>();
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line === 'ready') ready.resolve();
      else if (line === 'told') lab.#told();
      else lab.#arrivals.push(JSON.parse(line) as Arrival);
    });
    child.once('exit', () => ready.reject(new Error('the lab’s internet ended')));
    await ready.promise;
    return lab;
  }

  /** Connections that came since this was asked last. */
  async takeArrivals(): Promise<Arrival[]> {
    const told = new Promise<void>((resolve) => (this.#told = resolve));
    this.#child.stdin!.write('?');
    await told;
    const taken = this.#arrivals;
    this.#arrivals = [];
    return taken;
  }

  /** How many packets that are not TCP's came from the worker's host. */
  async strays(): Promise<number> {
    const rules = await run('ip', 'netns', 'exec', this.#internet, 'nft', 'list', 'table', 'ip', 'watch');
    return Number(/packets (\d+)/.exec(rules)![1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await gone;
    await run('ip', 'netns', 'delete', this.#internet);
  }
}

/** A guest that is root over its end of the wire: as bad as one can be that has taken over its sandbox. */
export class RawGuest implements AsyncDisposable {
  readonly #name: string;

  private constructor(name: string) {
    this.#name = name;
  }

  /** Takes the sandbox's end of a pair out of the gate's namespace. */
  static async plug(namespacePath: string, name: string): Promise<RawGuest> {
    await run('ip', 'netns', 'add', name);
    const guest = new RawGuest(name);
    await run('nsenter', `--net=${namespacePath}`, 'ip', 'link', 'set', 'guest0', 'name', 'eth0', 'netns', name);
    const there = (...command: string[]) => run('ip', '-n', name, ...command);
    await there('link', 'set', 'lo', 'up');
    await there('address', 'add', '10.0.0.2/30', 'dev', 'eth0');
    await there('link', 'set', 'eth0', 'up');
    await there('route', 'add', 'default', 'via', '10.0.0.1');
    return guest;
  }

  ip(...command: string[]): Promise<string> {
    return run('ip', '-n', this.#name, ...command);
  }

  /** What a Python program prints. `ask(name)` and `get(host, port)` are there, see `GUEST`. */
  python(program: string): Promise<string> {
    return python(program, 'nsenter', `--net=/run/netns/${this.#name}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run('ip', 'netns', 'delete', this.#name);
  }
}

/** The same on the worker's host itself. */
export const hostPython = (program: string): Promise<string> => python(program);

const python = (program: string, ...within: string[]) => {
  const [command, ...args] = [...within, 'python3', '-c', `${GUEST}\n${program}`];
  return run(command, ...args);
};

const GUEST = `
import json, socket, struct, sys, time
def question(name, kind=1, number=7):
    labels = b"".join(bytes([len(l)]) + l for l in name.encode().split(b".") if l)
    return struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack(">2H", kind, 1)
def ask(name, kind=1, server="10.0.0.1", wait=3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(wait)
        s.sendto(question(name, kind), (server, 53))
        try: answer = s.recv(2000)
        except OSError: return None
    count = struct.unpack(">H", answer[6:8])[0]
    return [answer[3] & 15] + [socket.inet_ntoa(answer[len(answer) - 16 * (i + 1) + 12:][:4]) for i in reversed(range(count))]
def get(host, port=80, path="/", wait=5):
    try:
        with socket.create_connection((host, port), wait) as s:
            s.sendall(f"GET {path} HTTP/1.0\\r\\n\\r\\n".encode())
            got = b""
            while True:
                piece = s.recv(65536)
                if not piece: return got.decode().split("\\r\\n\\r\\n", 1)[-1] or "empty"
                got += piece
    except OSError as error: return type(error).__name__
`;
