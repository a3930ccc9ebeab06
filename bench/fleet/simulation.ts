import { Scheduler } from '../../packages/control/src/scheduler/scheduler.ts';
import type { SchedulerEvent } from '../../packages/control/src/scheduler/types.ts';
import { Random } from '../../tests/faults/random.ts';
import { Fluid } from './fluid.ts';
import { type FleetFunction, type FleetWorker, makeTenants, makeWorker, type Tenant } from './make.ts';
import { Timeline } from './timeline.ts';

export interface FleetOptions {
  readonly seed: string;
  readonly workers: number;
  readonly tenants: number;
  readonly minutes: number;
  /** What is asked for, as a share of what the workers that are online could give, bursts not counted. */
  readonly load: number;
}

/** A worker's lease: a host of which nothing is heard for so long is given up. */
const LEASE_MS = 30_000;
const TICK_MS = 1_000;
/** A day of the owners' habits, so that a short run sees some. */
const DAY_MS = 20 * 60_000;
const BOOT_MS = 1_500;
const RESTORE_MS = 150;
/** The overhead of one microVM. */
const OVERHEAD_MIB = 32;

interface Host {
  readonly worker: FleetWorker;
  isOnline: boolean;
  /** In the order of their last use. */
  readonly blobs: Map<string, true>;
  /** Those that have a snapshot there. */
  readonly shapes: Set<string>;
  readonly running: Map<string, Run>;
}

interface Run {
  readonly attemptId: string;
  readonly fn: FleetFunction;
  readonly askedMs: number;
  readonly runMs: number;
  /** Since when it waits. */
  queuedMs: number;
  startedMs: number;
  host: Host | null;
  /** Of its placement: a planned end of an earlier one counts for nothing. */
  fence: number;
}

export interface TenantResult {
  readonly tenant: Tenant;
  asked: number;
  ended: number;
  /** From when it was asked for, or lost, to its placement. */
  readonly waitsMs: number[];
}

/** Once a simulated second. */
export interface Sample {
  readonly atMs: number;
  readonly onlineCpus: number;
  readonly usedCpus: number;
  readonly onlineMemoryMiB: number;
  readonly usedMemoryMiB: number;
  readonly queued: number;
}

export interface FleetResult {
  readonly tenants: readonly TenantResult[];
  readonly samples: readonly Sample[];
  /** In microseconds: each answer of `next` that placed something. */
  readonly decisionsUs: number[];
  /** All that the scheduler took, in milliseconds. */
  schedulerMs: number;
  readonly placements: number;
  /** Its image and its code were there. */
  readonly warm: number;
  /** Its shape had a snapshot there. */
  readonly restored: number;
  readonly redelivered: number;
  /** Done, as a share of what no scheduler could surpass. */
  readonly bound: { readonly cpus: number; readonly memory: number };
  /**
   * Jain's index of placements between tenants of which several small executions waited all through a second, in seconds in which such were placed; 1 is even. Null
   * when nobody contended.
   */
  readonly fairness: number | null;
}

/**
 * A fleet, hour by hour, around the real scheduler. All is decided by the seed but how long the scheduler takes. What a worker does is told the
 * scheduler as the dispatcher tells it: coming, going, what it has fetched, what has ended, and the time once a second.
 */
export class FleetSimulation {
  readonly #scheduler = new Scheduler();
  readonly #timeline = new Timeline();
  readonly #options: FleetOptions;
  readonly #hosts: Host[];
  readonly #tenants: TenantResult[];
  readonly #byTenant = new Map<Tenant, TenantResult>();
  readonly #runs = new Map<string, Run>();
  readonly #random: Record<'arrivals' | 'runs' | 'churn', Random>;
  readonly #fluid = new Fluid();
  readonly #samples: Sample[] = [];
  readonly #decisionsUs: number[] = [];
  readonly #waiting = new Map<Tenant, number>();
  #contended: { readonly tenants: Set<Tenant>; readonly placed: Map<Tenant, number> } | null = null;
  readonly #fairness: number[] = [];
  #online = { cpus: 0, memoryMiB: 0 };
  #used = { cpus: 0, memoryMiB: 0 };
  #schedulerMs = 0;
  #placements = 0;
  #warm = 0;
  #restored = 0;
  #redelivered = 0;
  #lastId = 0;

  constructor(options: FleetOptions) {
    this.#options = options;
    const random = new Random(options.seed);
    this.#random = {
      arrivals: random.branch('arrivals'),
      runs: random.branch('runs'),
      churn: random.branch('churn'),
    };
    const workers = random.branch('workers');
    this.#hosts = Array.from({ length: options.workers }, (_, at) => ({
      worker: makeWorker(workers, at),
      isOnline: false,
      blobs: new Map(),
      shapes: new Set(),
      running: new Map(),
    }));
    this.#tenants = makeTenants(random.branch('tenants'), options.tenants).map((tenant) => ({
      tenant,
      asked: 0,
      ended: 0,
      waitsMs: [],
    }));
    for (const result of this.#tenants) this.#byTenant.set(result.tenant, result);
  }

  run(): FleetResult {
    const endMs = this.#options.minutes * 60_000;
    for (const host of this.#hosts) this.#beginHabit(host);
    for (const { tenant } of this.#tenants) this.#beginAsking(tenant);
    this.#timeline.at(0, () => this.#tick());
    this.#timeline.runUntil(endMs);
    for (const run of this.#runs.values()) {
      if (run.host !== null) this.#fluid.done(run.fn, Math.max(0, endMs - run.startedMs));
    }
    return {
      tenants: this.#tenants,
      samples: this.#samples,
      decisionsUs: this.#decisionsUs,
      schedulerMs: this.#schedulerMs,
      placements: this.#placements,
      warm: this.#warm,
      restored: this.#restored,
      redelivered: this.#redelivered,
      bound: this.#fluid.shares(),
      fairness:
        this.#fairness.length === 0 ? null : this.#fairness.reduce((sum, one) => sum + one, 0) / this.#fairness.length,
    };
  }

  // --- Owners

  #beginHabit(host: Host): void {
    const { churn } = this.#random;
    const { habit } = host.worker;
    // Nobody comes at the same instant.
    const joinMs = churn.next() * 5_000;
    if (habit === 'always') {
      this.#timeline.at(joinMs, () => this.#come(host, exponential(churn, 6 * 3_600_000)));
    } else if (habit === 'shifts') {
      // Eight hours of twenty-four are the owner's.
      const offsetMs = churn.next() * DAY_MS;
      const leftMs = (DAY_MS * 2) / 3 - offsetMs;
      if (leftMs > 0) this.#timeline.at(joinMs, () => this.#come(host, leftMs));
      else this.#timeline.at(joinMs + DAY_MS - offsetMs, () => this.#come(host, (DAY_MS * 2) / 3));
    } else {
      this.#timeline.at(joinMs + (churn.chance(0.6) ? 0 : exponential(churn, 5 * 60_000)), () =>
        this.#come(host, exponential(churn, 10 * 60_000)),
      );
    }
  }

  #come(host: Host, staysMs: number): void {
    const { workerId, memoryMiB, cpus, diskMiB, isolation, egress } = host.worker;
    host.isOnline = true;
    this.#online.cpus += cpus;
    this.#online.memoryMiB += memoryMiB;
    this.#tell({
      type: 'worker_online',
      ...{ workerId, memoryMiB, cpus, diskMiB, isolation, egress },
      sandboxOverheadMiB: OVERHEAD_MIB,
      attempts: [],
    });
    if (host.blobs.size > 0) {
      this.#tell({ type: 'worker_blobs', workerId, added: [...host.blobs.keys()], removed: [] });
    }
    this.#pump();
    this.#timeline.after(staysMs, () => this.#leave(host));
  }

  /** One in five just goes silent; the rest take back what they lent, and say so. */
  #leave(host: Host): void {
    const { churn } = this.#random;
    const { workerId, cpus, memoryMiB, habit } = host.worker;
    const isSilent = churn.chance(0.2);
    host.isOnline = false;
    this.#online.cpus -= cpus;
    this.#online.memoryMiB -= memoryMiB;
    this.#tell({ type: 'worker_offline', workerId });
    const lost = [...host.running.values()];
    host.running.clear();
    for (const run of lost) this.#stopUsing(run);
    const giveUp = () => {
      for (const run of lost) this.#redeliver(run);
      this.#pump();
    };
    if (isSilent) this.#timeline.after(LEASE_MS, giveUp);
    else giveUp();
    const awayMs =
      habit === 'shifts'
        ? DAY_MS / 3
        : habit === 'idle'
          ? exponential(churn, 5 * 60_000)
          : exponential(churn, 2 * 60_000);
    const staysMs =
      habit === 'shifts' ? (DAY_MS * 2) / 3 : exponential(churn, habit === 'idle' ? 10 * 60_000 : 6 * 3_600_000);
    this.#timeline.after(Math.max(awayMs, isSilent ? LEASE_MS : 0), () => this.#come(host, staysMs));
  }

  // --- Tenants

  /** How many executions a second the tenant asks for, bursts not counted. */
  #rateOf(tenant: Tenant): number {
    const { workers, load } = this.#options;
    const meanCpuMs = tenant.functions.reduce((sum, fn) => sum + fn.cpus * meanRunMs(fn), 0) / tenant.functions.length;
    const fleetCpus = this.#hosts.reduce((sum, { worker }) => sum + worker.cpus, 0) * ONLINE_SHARE;
    return workers === 0 ? 0 : (tenant.share * load * fleetCpus * 1_000) / meanCpuMs;
  }

  #beginAsking(tenant: Tenant): void {
    const { arrivals } = this.#random;
    const rate = this.#rateOf(tenant);
    if (tenant.hunger === 'giant') {
      // All that it wants for some minutes, at once.
      const everyMs = 4 * 60_000;
      const send = () => {
        const count = Math.round((rate * everyMs) / 1_000);
        for (let sent = 0; sent < count; sent += 1) this.#ask(tenant);
        this.#pump();
        this.#timeline.after(everyMs, send);
      };
      this.#timeline.at(30_000, send);
      return;
    }
    let isFlash = false;
    const flash = () => {
      isFlash = true;
      this.#timeline.after(60_000, () => (isFlash = false));
      this.#timeline.after(exponential(arrivals, 30 * 60_000), flash);
    };
    this.#timeline.after(exponential(arrivals, 30 * 60_000), flash);
    const call = () => {
      this.#ask(tenant);
      this.#pump();
      this.#timeline.after(exponential(arrivals, 1_000 / (rate * (isFlash ? 10 : 1))), call);
    };
    this.#timeline.at(10_000 + exponential(arrivals, 1_000 / rate), call);
  }

  #ask(tenant: Tenant): void {
    const { runs } = this.#random;
    const { nowMs } = this.#timeline;
    // A few functions are called most.
    const fn = tenant.functions[Math.floor(tenant.functions.length * runs.next() ** 2)]!;
    this.#lastId += 1;
    const run: Run = {
      attemptId: `a${this.#lastId}`,
      fn,
      askedMs: nowMs,
      runMs: runMsOf(fn, runs),
      queuedMs: nowMs,
      startedMs: 0,
      host: null,
      fence: 0,
    };
    this.#runs.set(run.attemptId, run);
    this.#byTenant.get(tenant)!.asked += 1;
    this.#fluid.asked(fn, run.runMs);
    this.#enqueue(run);
  }

  #enqueue(run: Run): void {
    const { fn } = run;
    run.queuedMs = this.#timeline.nowMs;
    if (isSmall(fn)) this.#waiting.set(fn.tenant, (this.#waiting.get(fn.tenant) ?? 0) + 1);
    this.#tell({
      type: 'queued',
      attemptId: run.attemptId,
      projectId: fn.tenant.id,
      function: { id: fn.id, version: 1, limit: null },
      concurrency: null,
      priority: 0,
      memoryMiB: fn.memoryMiB,
      cpus: fn.cpus,
      diskMiB: fn.diskMiB,
      isolation: fn.isolation,
      egress: fn.egress,
      blobs: fn.blobs.map(({ digest }) => digest),
    });
  }

  #redeliver(run: Run): void {
    this.#redelivered += 1;
    this.#tell({ type: 'released', attemptId: run.attemptId });
    run.host = null;
    this.#enqueue(run);
  }

  // --- Placements

  #tell(event: SchedulerEvent): void {
    const began = performance.now();
    this.#scheduler.apply(event);
    this.#schedulerMs += performance.now() - began;
  }

  #pump(): void {
    for (;;) {
      const began = performance.now();
      const placement = this.#scheduler.next();
      const tookMs = performance.now() - began;
      this.#schedulerMs += tookMs;
      if (placement === null) return;
      this.#decisionsUs.push(tookMs * 1_000);
      this.#place(this.#runs.get(placement.attemptId)!, this.#hosts[Number(placement.workerId.slice(7))]!);
    }
  }

  #place(run: Run, host: Host): void {
    const { fn } = run;
    const { nowMs } = this.#timeline;
    this.#placements += 1;
    this.#byTenant.get(fn.tenant)!.waitsMs.push(nowMs - run.queuedMs);
    if (isSmall(fn)) {
      this.#waiting.set(fn.tenant, this.#waiting.get(fn.tenant)! - 1);
      const placed = this.#contended?.placed;
      placed?.set(fn.tenant, (placed.get(fn.tenant) ?? 0) + 1);
    }
    const missing = fn.blobs.filter(({ digest }) => !host.blobs.has(digest));
    const megabytes = missing.reduce((sum, blob) => sum + blob.megabytes, 0);
    const shape = `${fn.memoryMiB}/${fn.cpus}`;
    if (missing.length === 0) this.#warm += 1;
    if (host.shapes.has(shape)) this.#restored += 1;
    const startMs = (megabytes / host.worker.downloadRate) * 1_000 + (host.shapes.has(shape) ? RESTORE_MS : BOOT_MS);
    host.shapes.add(shape);
    this.#fetch(host, fn, missing.length > 0);
    run.host = host;
    run.startedMs = nowMs + startMs;
    run.fence += 1;
    host.running.set(run.attemptId, run);
    this.#used.cpus += fn.cpus;
    this.#used.memoryMiB += fn.memoryMiB + OVERHEAD_MIB;
    const { fence } = run;
    this.#timeline.after(startMs + run.runMs, () => {
      if (run.host === host && run.fence === fence && host.running.has(run.attemptId)) this.#end(run, host);
    });
  }

  #fetch(host: Host, fn: FleetFunction, isNew: boolean): void {
    for (const { digest } of fn.blobs) {
      host.blobs.delete(digest);
      host.blobs.set(digest, true);
    }
    if (!isNew) return;
    const removed: string[] = [];
    for (const digest of host.blobs.keys()) {
      if (host.blobs.size <= host.worker.cachedBlobs) break;
      host.blobs.delete(digest);
      removed.push(digest);
    }
    const added = fn.blobs.map(({ digest }) => digest);
    this.#tell({ type: 'worker_blobs', workerId: host.worker.workerId, added, removed });
  }

  #end(run: Run, host: Host): void {
    host.running.delete(run.attemptId);
    this.#stopUsing(run);
    this.#fluid.done(run.fn, run.runMs);
    this.#runs.delete(run.attemptId);
    this.#byTenant.get(run.fn.tenant)!.ended += 1;
    this.#tell({ type: 'released', attemptId: run.attemptId });
    this.#pump();
  }

  #stopUsing({ fn }: Run): void {
    this.#used.cpus -= fn.cpus;
    this.#used.memoryMiB -= fn.memoryMiB + OVERHEAD_MIB;
  }

  // --- What is seen once a second

  #tick(): void {
    const { nowMs } = this.#timeline;
    this.#tell({ type: 'time', nowMs });
    this.#pump();
    this.#samples.push({
      atMs: nowMs,
      onlineCpus: this.#online.cpus,
      usedCpus: this.#used.cpus,
      onlineMemoryMiB: this.#online.memoryMiB,
      usedMemoryMiB: this.#used.memoryMiB,
      queued: this.#scheduler.queuedCount,
    });
    this.#fluid.pass(TICK_MS, this.#online);
    this.#judge();
    this.#timeline.after(TICK_MS, () => this.#tick());
  }

  #judge(): void {
    const isWaiting = (tenant: Tenant) => (this.#waiting.get(tenant) ?? 0) >= SEVERAL;
    if (this.#contended !== null) {
      const { tenants, placed } = this.#contended;
      const shares = [...tenants].filter(isWaiting).map((tenant) => placed.get(tenant) ?? 0);
      // What was placed of few says nothing.
      if (shares.length > 1 && shares.reduce((sum, one) => sum + one, 0) >= 4 * shares.length) {
        this.#fairness.push(jain(shares));
      }
    }
    const waiting = this.#tenants.map(({ tenant }) => tenant).filter(isWaiting);
    this.#contended = waiting.length < 2 ? null : { tenants: new Set(waiting), placed: new Map() };
  }
}

const SEVERAL = 10;
/** What fits nearly every worker: who has to wait for a rare one waits for another reason than for its turn. */
const isSmall = (fn: FleetFunction): boolean => fn.memoryMiB <= 512 && fn.isolation === 'gvisor' && !fn.egress;

/** Of the workers, by their habits; what is asked for is measured against it. */
const ONLINE_SHARE = 0.3 + (0.35 * 2) / 3 + 0.35 * 0.65;

/** Log-normal, as run times are. */
const SIGMA = 0.8;
const meanRunMs = (fn: FleetFunction): number => fn.medianMs * Math.exp(SIGMA ** 2 / 2);

function runMsOf(fn: FleetFunction, random: Random): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
  return fn.medianMs * Math.exp(SIGMA * normal);
}

const exponential = (random: Random, meanMs: number): number => -meanMs * Math.log(1 - random.next());

/** Jain's fairness index: 1 when all are alike, 1/n when one has all. */
function jain(values: readonly number[]): number {
  const sum = values.reduce((all, one) => all + one, 0);
  const squares = values.reduce((all, one) => all + one * one, 0);
  return (sum * sum) / (values.length * squares);
}
