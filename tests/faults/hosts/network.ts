import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
const run = (program: string, ...args: string[]) => execute(program, args, { env: { PATH } });

/** Where packets are lost, seen from the host. */
export type Loss = 'in' | 'out' | 'both';

const CHAINS: Readonly<Record<Loss, readonly string[]>> = { in: ['INPUT'], out: ['OUTPUT'], both: ['INPUT', 'OUTPUT'] };
const INTERFACE = 'eth0';
/** Says on which host a test runs. */
export const INSIDE = 'COCORE_TEST_HOST';

/** A host: a network namespace with a loopback of its own. */
export class Host implements AsyncDisposable {
  readonly name: string;

  private constructor(name: string) {
    this.name = name;
  }

  /** One that is there. */
  static named(name: string): Host {
    return new Host(name);
  }

  static async make(name: string): Promise<Host> {
    await run('ip', 'netns', 'add', name);
    const host = new Host(name);
    await host.run('ip', 'link', 'set', 'lo', 'up');
    return host;
  }

  /** What a command begins with that runs on it. */
  get within(): readonly string[] {
    return ['ip', 'netns', 'exec', this.name];
  }

  async run(...command: string[]): Promise<string> {
    const [program, ...args] = [...this.within, ...command];
    return (await run(program!, ...args)).stdout;
  }

  /** Loses packets of its network, without a word to anybody: all of them, or this share. Disposing of it heals. */
  async lose(loss: Loss, share = 1): Promise<AsyncDisposable> {
    const chance = share === 1 ? [] : ['-m', 'statistic', '--mode', 'random', '--probability', String(share)];
    const change = async (how: '-I' | '-D') => {
      for (const chain of CHAINS[loss]) {
        const way = chain === 'INPUT' ? '-i' : '-o';
        await this.run('iptables', '-w', how, chain, way, INTERFACE, ...chance, '-j', 'DROP');
      }
    };
    await change('-I');
    return { [Symbol.asyncDispose]: () => change('-D') };
  }

  /** Its interfaces go with it. Processes in it must have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    await run('ip', 'netns', 'delete', this.name);
  }
}

/** Lays a wire between two hosts, whose addresses are 10.77.`number`.1 and .2; in the second it is the one network there is. */
export async function connect(server: Host, client: Host, number: number): Promise<string> {
  const end = `to${number}`;
  await server.run('ip', 'link', 'add', end, 'type', 'veth', 'peer', 'name', INTERFACE, 'netns', client.name);
  await server.run('ip', 'address', 'add', `10.77.${number}.1/24`, 'dev', end);
  await server.run('ip', 'link', 'set', end, 'up');
  await client.run('ip', 'address', 'add', `10.77.${number}.2/24`, 'dev', INTERFACE);
  await client.run('ip', 'link', 'set', INTERFACE, 'up');
  return `10.77.${number}.1`;
}
