import { randomBytes } from 'node:crypto';
import { DEFAULT_LIMITS } from '../../packages/control/src/admission.ts';
import { createJoinToken, openSession, ensureProject } from '../../packages/control/src/store/verbs/access.ts';
import { readExecution } from '../../packages/control/src/store/verbs/executions.ts';
import { createFunctionVersion } from '../../packages/control/src/store/verbs/functions.ts';
import { readInline } from '../../packages/control/src/store/verbs/reports.ts';
import type { NewExecution } from '../../packages/control/src/store/store.ts';
import { BASH_FILE } from '../../packages/control/test/support/version-fields.ts';
import { isTerminal } from '@cocore/protocol';
import { Random } from '../faults/random.ts';
import { judge, type JobRun } from './oracle.ts';
import { describe, type Fault, type Job, type Scenario } from './scenario.ts';
import { SERVER_ID, SimControl } from './sim-control.ts';
import { Disk } from './sim-store.ts';
import { CAPABILITIES, type Effect, publicKeyOf, SimWorker } from './sim-worker.ts';
import type { virtualTime } from './virtual-time.ts';
import { EPOCH_MS, Life, World } from './world.ts';

const FUNCTION = 'scripted';
const BLOB = { digest: `sha256:${'a'.repeat(64)}`, bytes: 10 };
/** How long after the last fault everything must be over: the longest timeout, redeliveries of it, and leases between. */
const AFTERMATH_MS = 30 * 60_000;
const USER_RETRY_MS = 700;
const USER_PATIENCE_MS = 5_000;

export interface Outcome {
  /** One sentence each; none when all is as it should be. */
  readonly violations: readonly string[];
  readonly events: number;
  readonly virtualMs: number;
}

/** A fault of CoCore's own that is planted, to see that it is found. */
export type Plant = 'output' | 'end' | 'message' | 'clock';

export interface SimulationOptions {
  readonly plant?: Plant | null;
  /** Takes a line for each message and fault. */
  readonly log?: ((line: string) => void) | null;
}

/** Plays a scenario to its end and judges it. The same scenario gives the same outcome, event by event. */
export async function simulate(
  scenario: Scenario,
  time: ReturnType<typeof virtualTime>,
  { plant = null, log = null }: SimulationOptions = {},
): Promise<Outcome> {
  const world = new World(new Random(`world/${scenario.seed}`), log);
  time.enter(world);
  const disk = new Disk(EPOCH_MS);
  try {
    return await new Simulation(scenario, world, disk, plant).run();
  } finally {
    disk.close();
  }
}

class Simulation {
  readonly #scenario: Scenario;
  readonly #world: World;
  readonly #disk: Disk;
  readonly #control: SimControl;
  readonly #workers: readonly SimWorker[];
  readonly #effects: Effect[] = [];
  readonly #runs: readonly JobRun[];
  readonly #users = new Life('users', { wallAheadMs: 0 });
  readonly #projectId: string;
  readonly #surprises: string[] = [];

  constructor(scenario: Scenario, world: World, disk: Disk, plant: Plant | null) {
    this.#scenario = scenario;
    this.#world = world;
    this.#disk = disk;
    this.#control = new SimControl(world, disk);
    this.#projectId = this.#deploy();
    this.#workers = Array.from({ length: scenario.workers }, (_, number) => this.#join(number));
    if (plant !== null) this.#plant(plant);
    this.#runs = scenario.jobs.map((job) => ({ job, ids: new Set(), cancelAnswers: [], cancelledAtMs: null }));
  }

  async run(): Promise<Outcome> {
    const onRejection = (error: unknown) => this.#surprises.push(`nobody took an error: ${String(error)}`);
    process.on('unhandledRejection', onRejection);
    try {
      return await this.#play();
    } finally {
      process.off('unhandledRejection', onRejection);
      this.#control.kill();
      for (const worker of this.#workers) worker.kill();
    }
  }

  async #play(): Promise<Outcome> {
    const world = this.#world;
    this.#control.start();
    for (const worker of this.#workers) worker.start();
    for (const run of this.#runs) world.later(run.job.atMs, this.#users, () => this.#use(run));
    let healedMs = 0;
    for (const fault of this.#scenario.faults) {
      healedMs = Math.max(healedMs, fault.atMs + fault.forMs);
      world.later(fault.atMs, null, () => this.#inject(fault));
    }
    const lastMs = Math.max(healedMs, ...this.#scenario.jobs.map(({ atMs }) => atMs));
    await world.run(() => false, lastMs + 1);
    const untilMs = world.nowMs + AFTERMATH_MS;
    // Once at least: the sandbox of what was taken back a moment ago is on its way out.
    do await world.run(() => false, 1_000);
    while (!this.#isQuiet() && world.nowMs < untilMs);
    const records = new Map(this.#runs.flatMap(({ ids }) => [...ids].map((id) => [id, this.#read(id)] as const)));
    const outputs = new Map<string, string>();
    for (const record of records.values()) {
      if (record === null) continue;
      for (const { id } of record.attempts) outputs.set(id, this.#output(id));
    }
    const violations = judge({
      scenario: this.#scenario,
      runs: this.#runs,
      records,
      outputs,
      effects: this.#effects,
      alive: new Set(this.#workers.map(({ life }) => life)),
      isQuiet: this.#isQuiet(),
      held: { control: this.#control.held, workers: this.#workers.map(({ held }) => held) },
      surprises: this.#surprises,
    });
    return { violations, events: world.count, virtualMs: world.nowMs };
  }

  #plant(plant: Plant): void {
    switch (plant) {
      case 'output':
        this.#disk.forgets = 'recordOutput';
        return;
      case 'end':
        this.#disk.forgets = 'recordEnd';
        return;
      case 'message':
        for (const { network } of this.#workers) network.lossShare = 0.01;
        return;
      case 'clock':
        this.#control.clockRate = 1.9;
        return;
    }
  }

  /** Everybody has an answer, everything has ended, and nobody holds anything. */
  #isQuiet(): boolean {
    const { held } = this.#control;
    if (held === null || this.#workers.some(({ isUp }) => !isUp)) return false;
    const { live, queued, workers } = held;
    if (live > 0 || queued > 0 || workers < this.#workers.length) return false;
    if (this.#workers.some(({ held }) => held.attempts > 0 || held.ends > 0)) return false;
    return this.#runs.every(({ ids }) => ids.size > 0 && [...ids].every((id) => isTerminal(this.#read(id)!.state)));
  }

  #read(executionId: string) {
    return this.#do((context) => readExecution(context, this.#projectId, executionId));
  }

  #output(attemptId: string): string {
    const attempt = { projectId: this.#projectId, attemptId };
    const pieces: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      const page = this.#do((context) => readInline(context, attempt, 'stdout', at));
      if (page.length === 0) break;
      pieces.push(...page);
      at += page.reduce((sum, { length }) => sum + length, 0);
    }
    return Buffer.concat(pieces).toString();
  }

  #do<T>(verb: Parameters<typeof Disk.prototype.do<T>>[2]): T {
    return this.#disk.do(EPOCH_MS, this.#world.random, verb);
  }

  #deploy(): string {
    return this.#do(function* (context) {
      const projectId = yield* ensureProject(context, 'default');
      yield* createFunctionVersion(
        context,
        {
          projectId,
          name: FUNCTION,
          ...BASH_FILE,
          code: BLOB,
          image: BLOB,
          memoryMiB: 256,
          cpus: 1,
          timeoutMs: 600_000,
          outputLimitBytes: 10_000,
          env: {},
          isolation: 'container',
        },
        DEFAULT_LIMITS,
      );
      return projectId;
    });
  }

  #join(number: number): SimWorker {
    const workerId = this.#do(function* (context) {
      const hash = randomBytes(32);
      yield* createJoinToken(context, { hash, ttlMs: 1_000 });
      const opened = yield* openSession(context, {
        sessionId: 'joined',
        publicKey: publicKeyOf(number),
        joinTokenHash: hash,
        name: `worker ${number}`,
        daemonVersion: '0.1.0',
        platform: 'simulated',
        capabilities: CAPABILITIES,
        inventory: [],
      });
      if (opened.kind !== 'opened') throw new Error(`worker ${number} cannot join: ${opened.kind}`);
      return opened.workerId;
    });
    const joined = { serverId: SERVER_ID, workerId, certificateSha256: null };
    return new SimWorker(this.#world, this.#control, number, joined, this.#effects);
  }

  /** A user: asks until it is answered, as a client with an idempotency key does. */
  #use(run: JobRun): void {
    const { job } = run;
    const ask = () => this.#insist(() => this.#control.create(this.#executionOf(job)));
    const answered = (id: string) => {
      const isNew = run.ids.size === 0;
      run.ids.add(id);
      if (isNew && job.cancelsAfterMs !== null) setTimeout(() => void this.#cancel(run, id), job.cancelsAfterMs);
    };
    void ask().then(answered);
    if (job.asksTwice) void ask().then(answered);
  }

  async #cancel(run: JobRun, executionId: string): Promise<void> {
    run.cancelAnswers.push(await this.#insist(() => this.#control.cancel(this.#projectId, executionId)));
    run.cancelledAtMs = this.#world.nowMs;
  }

  /** Until there is an answer: an error, or silence, is none. */
  async #insist<T>(ask: () => Promise<T>): Promise<T> {
    for (;;) {
      const given = new Promise<never>((_, reject) =>
        setTimeout(() => reject(new Error('no answer')), USER_PATIENCE_MS),
      );
      given.catch(() => undefined);
      try {
        return await Promise.race([ask(), given]);
      } catch {
        await new Promise((resolve) => setTimeout(resolve, USER_RETRY_MS));
      }
    }
  }

  #executionOf(job: Job): NewExecution {
    return {
      projectId: this.#projectId,
      function: FUNCTION,
      args: job.args,
      env: {},
      stdin: null,
      files: [],
      timeoutMs: job.timeoutMs,
      outputLimitBytes: null,
      retries: job.retries,
      idempotencyKey: `job/${job.number}`,
    };
  }

  #inject(fault: Fault): void {
    const world = this.#world;
    world.log(describe(fault));
    const heal = (run: () => void) =>
      world.later(fault.forMs, null, () => {
        world.log(`healed: ${describe(fault)}`);
        run();
      });
    const [control, disk] = [this.#control, this.#disk];
    const workerOf = (number: number | null) => (number === null ? null : this.#workers[number]!);
    switch (fault.kind) {
      case 'kill': {
        const process = workerOf(fault.worker) ?? control;
        process.kill();
        heal(() => {
          if (!process.isUp) process.start();
        });
        return;
      }
      case 'stop': {
        const worker = workerOf(fault.worker)!;
        worker.stop();
        heal(() => {
          worker.kill();
          worker.start();
        });
        return;
      }
      case 'freeze':
        return (workerOf(fault.worker) ?? control).freeze(fault.forMs);
      case 'cut': {
        const { network } = workerOf(fault.worker)!;
        network.isCut = true;
        network.reset();
        heal(() => (network.isCut = false));
        return;
      }
      case 'reset':
        return workerOf(fault.worker)!.network.reset();
      case 'halfClose':
        return workerOf(fault.worker)!.network.halfClose(fault.end);
      case 'silence':
      case 'mute':
      case 'deaf': {
        const { network } = workerOf(fault.worker)!;
        const directions = (
          [
            ['toServer', fault.kind !== 'deaf'],
            ['toWorker', fault.kind !== 'mute'],
          ] as const
        ).flatMap(([direction, isSilent]) => (isSilent ? [direction] : []));
        for (const direction of directions) network.silence(direction, true);
        heal(() => directions.forEach((direction) => network.silence(direction, false)));
        return;
      }
      case 'slow': {
        const { network } = workerOf(fault.worker)!;
        const { latencyMs } = network;
        network.latencyMs = [fault.latencyMs / 2, fault.latencyMs];
        heal(() => (network.latencyMs = latencyMs));
        return;
      }
      case 'clock': {
        const { host } = workerOf(fault.worker) ?? control;
        host.wallAheadMs += fault.aheadMs;
        heal(() => (host.wallAheadMs -= fault.aheadMs));
        return;
      }
      case 'full':
        disk.isFull = true;
        heal(() => (disk.isFull = false));
        return;
      case 'flaky':
        disk.failingShare = fault.share;
        heal(() => (disk.failingShare = 0));
        return;
      case 'stall':
        disk.stallMs = fault.commitMs;
        heal(() => (disk.stallMs = 0));
        return;
    }
  }
}
