import type { Duplex } from 'node:stream';
import { pino } from 'pino';
import { DEFAULT_LIMITS } from '../../packages/control/src/admission.ts';
import { ServerNames } from '../../packages/control/src/auth/server-names.ts';
import { Dispatcher } from '../../packages/control/src/dispatch/dispatcher.ts';
import { Sweeper } from '../../packages/control/src/dispatch/sweeper.ts';
import { EventHub } from '../../packages/control/src/events.ts';
import { AttemptReports } from '../../packages/control/src/gateway/attempt-reports.ts';
import { Gateway } from '../../packages/control/src/gateway/gateway.ts';
import { Metrics } from '../../packages/control/src/metrics.ts';
import { OutputStore } from '../../packages/control/src/output/output-store.ts';
import type { NewExecution, Store } from '../../packages/control/src/store/store.ts';
import type { Disk } from './sim-store.ts';
import { randomBytesOf, simStore } from './sim-store.ts';
import { Connection, type Network, SimSocket } from './wire.ts';
import { type HostClock, Life, type World } from './world.ts';

export const SERVER_ID = 'sv_simulation';
/** The disk is the same in every life. */
const INCARNATION = 'simulated';
export const AUTHORITY = '127.0.0.1:7070';

const log = pino({ level: 'silent' });
const metrics = new Metrics();
const names = new ServerNames('127.0.0.1', []);
names.port = 7070;
/** Output is short enough to be in the store: what goes to files would leave the simulated world. */
const NO_FILES = '/nonexistent';

/** Of attempts, and of workers that have a session. */
export interface Held {
  readonly live: number;
  readonly queued: number;
  readonly workers: number;
}

const RESTART_MS = 1_000;

interface Parts {
  readonly store: Store;
  readonly dispatcher: Dispatcher;
  readonly gateway: Gateway;
}

/** The control server, one life after the other on one disk: its real parts, without HTTP. */
export class SimControl {
  readonly host: HostClock = { wallAheadMs: 0 };
  readonly disk: Disk;
  /** Planted: how fast its clock of leases and deadlines runs. */
  clockRate = 1;
  readonly #world: World;
  readonly #connections = new Set<Connection>();
  #life: Life | null = null;
  #parts: Parts | null = null;
  #lives = 0;

  constructor(world: World, disk: Disk) {
    this.#world = world;
    this.disk = disk;
  }

  get isUp(): boolean {
    return this.#life !== null;
  }

  /** What it has in memory; null while it does not serve. */
  get held(): Held | null {
    if (this.#parts === null) return null;
    const { dispatcher } = this.#parts;
    return {
      live: dispatcher.live.size,
      queued: dispatcher.scheduler.queuedCount,
      workers: dispatcher.links.size,
    };
  }

  start(): void {
    this.#lives += 1;
    const life = new Life(`control ${this.#lives}`, this.host);
    this.#life = life;
    this.#world.within(life, () => {
      this.#boot(life).catch((error: unknown) => {
        this.#world.log(`${life.name} cannot start: ${String(error)}`);
        // It is started again, as a supervisor does.
        this.#world.later(RESTART_MS, null, () => {
          if (this.#life !== life) return;
          life.end();
          this.start();
        });
      });
    });
  }

  async #boot(life: Life): Promise<void> {
    const world = this.#world;
    const clock = { nowMs: () => world.wallMs(this.host), uptimeMs: () => world.uptimeMs() * this.clockRate };
    const store = simStore(world, this.disk, clock.nowMs);
    const hub = new EventHub();
    const output = new OutputStore(NO_FILES, store);
    const dispatcher = new Dispatcher({ store, output, hub, clock, metrics, log, random: randomBytesOf(world.random) });
    await dispatcher.start();
    const sweeper = new Sweeper({ store, dispatcher, hub, clock, log });
    const reports = new AttemptReports({ store, dispatcher, hub, clock, metrics, log });
    const gateway = new Gateway({
      store,
      serverId: SERVER_ID,
      incarnation: INCARNATION,
      names,
      clock,
      dispatcher,
      sweeper,
      reports,
      metrics,
      log,
    });
    if (this.#life !== life) return;
    this.#parts = { store, dispatcher, gateway };
    world.log(`${life.name} serves`);
    void sweeper.run(new AbortController().signal);
  }

  /** SIGKILL, or the power is cut. */
  kill(): void {
    this.#life?.end();
    this.#life = null;
    this.#parts = null;
    for (const { server } of this.#connections) server.abandon(this.#world.random.chance(0.5));
    this.#connections.clear();
  }

  freeze(forMs: number): void {
    if (this.#life !== null) this.#life.frozenUntilMs = this.#world.nowMs + forMs;
  }

  /** A worker dials. */
  dial(network: Network, client: SimSocket): void {
    const world = this.#world;
    world.later(world.random.next() * 3, client.life, () =>
      network.whenWhole(() => {
        if (client.readyState !== SimSocket.CONNECTING || !client.life.isAlive) return;
        const [life, parts] = [this.#life, this.#parts];
        if (network.isCut || life === null || parts === null) {
          world.later(0, client.life, () => client.refuse());
          return;
        }
        const connection = new Connection(world, network, client, life);
        this.#connections.add(connection);
        connection.server.once('close', () => this.#connections.delete(connection));
        world.later(0, life, () => void parts.gateway.serve(connection.server.asWebSocket, UNCORKED, '127.0.0.1'));
      }),
    );
  }

  /** Asks for an execution, as a request does. It may never be answered. */
  create(execution: NewExecution): Promise<string> {
    return this.#ask(async ({ dispatcher }) => {
      const { executionId } = await dispatcher.arrivals.create(execution, DEFAULT_LIMITS);
      return executionId;
    });
  }

  cancel(projectId: string, executionId: string): Promise<string | null> {
    return this.#ask(
      async ({ dispatcher }) => (await dispatcher.cancellations.cancel(projectId, executionId))?.result ?? null,
    );
  }

  /** Runs in the server's life; its answer comes back if the life lasts. */
  #ask<T>(work: (parts: Parts) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const [life, parts] = [this.#life, this.#parts];
      if (life === null || parts === null) {
        reject(new Error('connect ECONNREFUSED'));
        return;
      }
      this.#world.later(0, life, () => void work(parts).then(resolve, reject));
    });
  }
}

const UNCORKED = { cork: () => undefined, uncork: () => undefined } as unknown as Duplex;
