import { generateKeyPairSync, sign } from 'node:crypto';
import type { Capabilities } from '@cocore/protocol';
import { pino } from 'pino';
import { CapacityLedger } from '../../packages/worker/src/capacity/ledger.ts';
import { Attempts } from '../../packages/worker/src/execution/attempts.ts';
import type { EndRecord } from '../../packages/worker/src/execution/end-journal.ts';
import type { Joined } from '../../packages/worker/src/identity.ts';
import { FakeDriver } from '../../packages/worker/src/sandbox/fake/fake-driver.ts';
import { Link } from '../../packages/worker/src/session/link.ts';
import { Contact } from '../../packages/worker/src/session/contact.ts';
import { AUTHORITY, type SimControl } from './sim-control.ts';
import { Network, SimSocket } from './wire.ts';
import { type HostClock, Life, type World } from './world.ts';

const SHARE = { cpus: 4, memoryMiB: 1024, diskMiB: 65_536 };
export const CAPABILITIES: Capabilities = {
  driver: 'fake',
  isolation: 'container',
  ...SHARE,
  sandboxOverheadMiB: 0,
  egress: false,
};

/** What the journal's disk takes for an end, at most. */
const JOURNAL_MS = 10;

const log = pino({ level: 'silent' });

/** What a sandbox was, and did to the world. */
export interface Effect {
  readonly what: 'begun' | 'gone' | 'effect';
  readonly attemptId: string;
  readonly text: string;
  readonly atMs: number;
  readonly worker: number;
  readonly life: Life;
}

/** Made once in a process: the same for every seed. */
const keys = new Map<number, ReturnType<typeof keyPair>>();

function keyPair() {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return { privateKey, publicKey: publicKey.export({ format: 'jwk' }).x! };
}

export function publicKeyOf(number: number): string {
  let pair = keys.get(number);
  if (pair === undefined) keys.set(number, (pair = keyPair()));
  return pair.publicKey;
}

/** A worker's host: its disk and its wire outlive the daemon. The daemon is the real link, session, attempts and executions, over the fake driver. */
export class SimWorker {
  readonly number: number;
  readonly network = new Network();
  readonly host: HostClock = { wallAheadMs: 0 };
  readonly #world: World;
  readonly #control: SimControl;
  readonly #effects: Effect[];
  readonly #journal = new Map<string, EndRecord>();
  readonly #sockets = new Set<SimSocket>();
  #joined: Joined;
  #life: Life | null = null;
  #attempts: Attempts | null = null;
  #link: Link | null = null;
  #lives = 0;

  constructor(world: World, control: SimControl, number: number, joined: Joined, effects: Effect[]) {
    this.#world = world;
    this.#control = control;
    this.number = number;
    this.#joined = joined;
    this.#effects = effects;
  }

  get isUp(): boolean {
    return this.#life !== null;
  }

  get life(): Life | null {
    return this.#life;
  }

  /** How many attempts the daemon has, and ends that it has written down. */
  get held(): { readonly attempts: number; readonly ends: number } {
    return { attempts: this.#attempts?.list().length ?? 0, ends: this.#journal.size };
  }

  start(): void {
    this.#lives += 1;
    const life = new Life(`worker ${this.number}.${this.#lives}`, this.host);
    this.#life = life;
    this.#world.within(life, () => this.#boot(life));
  }

  #boot(life: Life): void {
    const world = this.#world;
    const driver = new FakeDriver({
      ledger: (row) => this.#effects.push({ ...row, atMs: world.nowMs, worker: this.number, life }),
    });
    const { privateKey } = keys.get(this.number)!;
    const turns = new Map<string, Promise<void>>();
    const signs = (statement: string) => sign(null, Buffer.from(statement), privateKey).toString('base64url');
    const attempts = new Attempts(
      new CapacityLedger(SHARE),
      {
        driver,
        blobs: { use: async () => ({ path: NO_FILE, [Symbol.dispose]: () => undefined }) },
        journal: {
          write: (record) =>
            this.#inTurn(turns, record.ended.attemptId, async () => {
              await after(world.random.next() * JOURNAL_MS);
              this.#journal.set(record.ended.attemptId, record);
            }),
          remove: (attemptId) => this.#inTurn(turns, attemptId, async () => void this.#journal.delete(attemptId)),
        },
        log,
        sign: signs,
        onNews: (attempt) => link.tell(attempt),
        onBootRetry: () => undefined,
        uptime: world.uptimeMs,
      },
      [...this.#journal.values()],
    );
    const link = new Link({
      endpoint: {
        authority: AUTHORITY,
        pin: null,
        dial: () => this.#dial(life),
        blob: () => Promise.reject(new Error('blobs are at hand')),
      },
      identity: {
        publicKey: publicKeyOf(this.number),
        joined: this.#joined,
        sign: signs,
        join: (joined) => (this.#joined = joined),
      },
      joinToken: null,
      capabilities: CAPABILITIES,
      name: `worker ${this.number}`,
      daemonVersion: '0.1.0',
      platform: 'simulated',
      largeBlobs: () => [],
      log,
      uptime: world.uptimeMs,
      onAnswered: (sentMs) => contact.answered(sentMs),
      random: () => world.random.next(),
    });
    const contact = new Contact({ onCutOff: () => attempts.cutOff(), uptime: world.uptimeMs });
    this.#attempts = attempts;
    this.#link = link;
    link.run(attempts).catch((error: unknown) => {
      world.log(`${life.name} gave up: ${String(error)}`);
      throw error;
    });
  }

  /** As the real journal: one thing after the other for each attempt. */
  #inTurn(turns: Map<string, Promise<void>>, attemptId: string, work: () => Promise<void>): Promise<void> {
    const turn = (turns.get(attemptId) ?? Promise.resolve()).then(work);
    turns.set(attemptId, turn);
    return turn;
  }

  #dial(life: Life) {
    const socket = new SimSocket(this.#world, life);
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    this.#control.dial(this.network, socket);
    return socket.asWebSocket;
  }

  /** SIGKILL, and its sandboxes die with it. */
  kill(): void {
    const { random } = this.#world;
    this.#life?.end();
    this.#life = null;
    this.#attempts = null;
    this.#link = null;
    for (const socket of this.#sockets) socket.abandon(random.chance(0.5));
    this.#sockets.clear();
  }

  /** SIGTERM: it ends what it has, reports it, and is gone. */
  stop(): void {
    const [life, attempts, link] = [this.#life, this.#attempts, this.#link];
    if (life === null || attempts === null || link === null) return;
    this.#world.within(life, () => {
      void (async () => {
        await attempts.reclaim();
        link.tellStopping();
        for (let waited = 0; waited < 4_000 && attempts.list().length > 0 && link.connected; waited += 20)
          await after(20);
        await link[Symbol.asyncDispose]();
        if (this.#life === life) this.kill();
      })();
    });
  }

  freeze(forMs: number): void {
    if (this.#life !== null) this.#life.frozenUntilMs = this.#world.nowMs + forMs;
  }
}

const NO_FILE = '/nonexistent';

/** By the clock of the life that calls it. */
function after(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}
