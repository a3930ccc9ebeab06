import { randomInt } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CocoreClient } from '@cocore/client';
import { type TestDatabase, testDatabase } from '../e2e/support/database.ts';
import { until } from '../e2e/support/wait.ts';
import { nowMs } from './clock.ts';
import { Daemon } from './daemon.ts';
import { WORKERS } from './plan.ts';
import { artifactsOf, FUNCTION_MEMORY_MIB, leaseOf, playerOf, type Sandboxes } from './sandboxes.ts';
import { buildPreload, HostFaults } from './preload/preload.ts';
import { Wire } from './wire.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const mainOf = (name: 'control' | 'worker') => join(ROOT, 'packages', name, 'src', 'main.ts');

/** Room for the scratch of as many executions, beside the quarter that blobs have. */
const DISK_MIB = 10_000;

const SAMPLE_MS = 250;

/** The function that plays its arguments. */
export const FUNCTION = 'steps';

/** Who is online, as the operator sees it. */
export interface Sighting {
  readonly atMs: number;
  /** Workers, by number; none when the control server does not answer. */
  readonly online: ReadonlySet<number>;
}

/**
 * A control server and its workers, as processes, each on a wire of its own; another wire is that of all users. Everything of it lies in one
 * directory.
 */
export class Fleet implements AsyncDisposable {
  readonly directory: string;
  readonly sandboxes: Sandboxes;
  readonly control: Daemon;
  readonly workers: readonly Daemon[];
  readonly workerWires: readonly Wire[];
  readonly userWire: Wire;
  readonly sightings: Sighting[] = [];
  /** Ids of workers, by number. */
  readonly workerIds: string[] = [];
  /** By the daemon's name. */
  readonly hostFaults = new Map<string, HostFaults>();
  /** What twins did that nobody asked for. */
  readonly twinSurprises: string[] = [];
  readonly #artifacts: string;
  readonly #twinWire: Wire;
  readonly #port: number;
  readonly #stop = new AbortController();
  #operator: CocoreClient | null = null;
  #user: CocoreClient | null = null;
  #watching: Promise<void> = Promise.resolve();
  readonly #twins = new Map<number, Daemon>();

  readonly #database: TestDatabase;

  private constructor(
    directory: string,
    sandboxes: Sandboxes,
    port: number,
    wires: readonly Wire[],
    database: TestDatabase,
  ) {
    this.#database = database;
    this.directory = directory;
    this.sandboxes = sandboxes;
    this.#artifacts = artifactsOf(sandboxes, directory);
    this.#port = port;
    buildPreload(this.#library);
    this.workerWires = wires.slice(0, WORKERS);
    this.userWire = wires[WORKERS]!;
    this.#twinWire = wires[WORKERS + 1]!;
    this.control = this.#daemon('control', 'control', [
      ...['--data-dir', join(directory, 'control'), '--artifacts', this.#artifacts],
      ...['--port', String(port), '--default-isolation', 'container'],
      ...wires.flatMap((wire) => ['--allow-host', `127.0.0.1:${wire.port}`]),
    ]);
    this.workers = this.workerWires.map((wire, number) =>
      this.#daemon(`worker-${number}`, 'worker', [
        ...this.#workerArgs(`worker-${number}`, wire),
        ...['--join-token-file', join(directory, `worker-${number}.token`)],
      ]),
    );
  }

  static async start(sandboxes: Sandboxes): Promise<Fleet> {
    const directory = mkdtempSync(join(tmpdir(), 'cocore-faults-'));
    const port = await lastingPort();
    const wires: Wire[] = [];
    for (let count = 0; count < WORKERS + 2; count += 1) wires.push(await Wire.to(port));
    const fleet = new Fleet(directory, sandboxes, port, wires, await testDatabase());
    try {
      await fleet.#start();
      return fleet;
    } catch (error) {
      await fleet[Symbol.asyncDispose]();
      fleet.remove();
      throw error;
    }
  }

  /** Past all wires that a fault is on. */
  get operator(): CocoreClient {
    return this.#operator!;
  }

  get user(): CocoreClient {
    return this.#user!;
  }

  get ledgerPath(): string {
    return join(this.directory, 'ledger.jsonl');
  }

  get #library(): string {
    return join(this.directory, 'libfaults.so');
  }

  get daemons(): readonly Daemon[] {
    return [this.control, ...this.workers];
  }

  /** A second daemon with the identity of this worker, on a wire of its own. */
  async startTwin(number: number): Promise<void> {
    const name = `twin-of-${number}-at-${Math.round(nowMs())}`;
    mkdirSync(join(this.directory, name));
    const identity = join(this.directory, `worker-${number}`, 'identity.json');
    cpSync(identity, join(this.directory, name, 'identity.json'));
    const twin = this.#daemon(name, 'worker', this.#workerArgs(name, this.#twinWire));
    this.#twins.set(number, twin);
    void twin.start();
  }

  async endTwin(number: number): Promise<void> {
    const twin = this.#twins.get(number)!;
    this.#twins.delete(number);
    await twin.end('SIGKILL');
    this.twinSurprises.push(...twin.surprises);
  }

  /** Ends all processes in order. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    for (const daemon of this.daemons) daemon.sample();
    for (const number of this.#twins.keys()) await this.endTwin(number);
    for (const daemon of this.workers) await daemon[Symbol.asyncDispose]();
    await this.control[Symbol.asyncDispose]();
    for (const wire of [...this.workerWires, this.userWire, this.#twinWire]) await wire[Symbol.asyncDispose]();
    await this.#database[Symbol.asyncDispose]();
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** Puts what it left where it is not taken for something left behind, for whoever wants to know why. */
  keepAs(name: string): string {
    const path = join(tmpdir(), name);
    rmSync(path, { recursive: true, force: true });
    renameSync(this.directory, path);
    return path;
  }

  #daemon(name: string, what: 'control' | 'worker', args: readonly string[]): Daemon {
    const faults = new HostFaults(this.#library, join(this.directory, `${name}.faults`));
    this.hostFaults.set(name, faults);
    const env = {
      ...faults.env,
      ...(what === 'control' ? this.#database.env : {}),
      PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
      HOME: this.directory,
      COCORE_LOG_LEVEL: 'info',
      COCORE_FAKE_LEDGER: this.ledgerPath,
    };
    return new Daemon({ name, main: mainOf(what), args, env, logPath: join(this.directory, `${name}.log`) });
  }

  #workerArgs(name: string, wire: Wire): readonly string[] {
    const { slots, memoryMiB } = leaseOf(this.sandboxes);
    return [
      ...['--server', `http://127.0.0.1:${wire.port}`, '--data-dir', join(this.directory, name), '--name', name],
      ...['--isolation', this.sandboxes, '--cpus', String(slots), '--memory', String(memoryMiB)],
      ...['--disk', String(DISK_MIB), '--artifacts', this.#artifacts, '--pool', 'off'],
    ];
  }

  async #start(): Promise<void> {
    await inTime(this.control);
    const apiKey = readFileSync(join(this.directory, 'control', 'operator.key'), 'utf8').trim();
    this.#operator = new CocoreClient({ url: `http://127.0.0.1:${this.#port}`, apiKey });
    this.#user = new CocoreClient({ url: `http://127.0.0.1:${this.userWire.port}`, apiKey });
    for (const daemon of this.workers) {
      const { token } = await this.operator.joinTokens.create({});
      writeFileSync(join(this.directory, `${daemon.name}.token`), token, { mode: 0o600 });
      this.workerIds.push(await inTime(daemon));
    }
    const player = playerOf(this.sandboxes, FUNCTION);
    await this.operator.functions.deploy({ name: FUNCTION, ...player, memoryMiB: FUNCTION_MEMORY_MIB });
    await this.#warm();
    this.#watching = this.#watch();
  }

  /** Has every worker run something, so that each has the blobs. */
  async #warm(): Promise<void> {
    await until('every worker has run something', async () => {
      const all = await Promise.all(
        Array.from({ length: leaseOf(this.sandboxes).slots * WORKERS }, async () =>
          this.operator.executions.create(FUNCTION, { args: ['sleep:300'] }, { waitMs: 60_000 }),
        ),
      );
      return new Set(all.map(({ attempts }) => attempts[0]!.workerId)).size === WORKERS;
    });
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      for (const daemon of this.daemons) daemon.sample();
      const atMs = nowMs();
      const workers = await this.operator.workers.list().catch(() => []);
      const online = workers.filter(({ state }) => state === 'online').map(({ id }) => this.workerIds.indexOf(id));
      this.sightings.push({ atMs, online: new Set(online) });
      await sleep(SAMPLE_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** What its processes left in its directory that should have gone with them. */
  leftovers(): string[] {
    return this.workers.flatMap(({ name }) => {
      const run = join(this.directory, name, 'run');
      return existsSync(run) ? readdirSync(run).map((left) => `${name}/run/${left}`) : [];
    });
  }
}

/**
 * A free port that nobody takes while the control server is away: below those that the kernel gives to connections and to
 * listeners without a wish.
 */
export async function lastingPort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 30_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

/** Starts it; with what it said, when it does not start. */
export async function inTime(daemon: Daemon): Promise<string> {
  const late = sleep(60_000, undefined, { ref: false }).then(() => {
    throw new Error(`${daemon.name} was not ready within 60 s ${daemon.surprises.join('; ')}`);
  });
  return Promise.race([daemon.start(), late]);
}
