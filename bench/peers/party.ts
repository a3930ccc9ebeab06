/** The bench's end of a process of `role.ts`. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Place } from './peer.ts';
import type { Answer, Done, Order } from './role.ts';

const STOP_MS = 20_000;

export class Party implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#ended = once(child, 'exit');
    this.#ended.catch(() => undefined);
  }

  /** @param file the adapter's, without its extension */
  static async start(file: string, name: string, role: 'client' | 'worker', place: Place): Promise<Party> {
    const flags = (process.env[`COCORE_BENCH_NODE_${role.toUpperCase()}`] ?? '').split(' ').filter(Boolean);
    const child = fork(fileURLToPath(new URL('role.ts', import.meta.url)), [file, name, role], {
      execArgv: ['--no-warnings', ...flags],
      // The SDK of Restate says each call otherwise.
      env: { ...process.env, RESTATE_LOGGING: 'ERROR' },
    });
    const party = new Party(child);
    try {
      await party.order({ do: 'start', place });
    } catch (error) {
      await party[Symbol.asyncDispose]();
      throw error;
    }
    return party;
  }

  /** @throws what it failed with there */
  async order(order: Order): Promise<Done> {
    this.#child.send(order);
    const gone = this.#ended.then(() => {
      throw new Error('the process has ended');
    });
    const [answer] = (await Promise.race([once(this.#child, 'message'), gone])) as [Answer];
    if ('failed' in answer) throw new Error(answer.failed);
    return answer.done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const killed = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS);
    await this.order({ do: 'stop' }).catch(() => undefined);
    if (this.#child.connected) this.#child.disconnect();
    await this.#ended;
    clearTimeout(killed);
  }
}
