/** What the simulated fleet is made of: workers as owners lease them, and tenants with functions as developers deploy them. A seed decides all of it. */
import type { SchedulerShape } from '../../packages/control/src/scheduler/types.ts';
import type { IsolationClass } from '../../packages/protocol/src/index.ts';
import type { Random } from '../../tests/faults/random.ts';

/** How an owner leases: `always`; `shifts`, the same part of each day; `idle`, whenever nobody sits before it. */
export type Habit = 'always' | 'shifts' | 'idle';

export interface FleetWorker extends SchedulerShape {
  readonly workerId: string;
  readonly isolation: IsolationClass;
  readonly egress: boolean;
  readonly habit: Habit;
  /** MB/s of what it fetches. */
  readonly downloadRate: number;
  /** So many blobs it keeps, the last used. */
  readonly cachedBlobs: number;
}

export interface FleetFunction extends SchedulerShape {
  readonly id: string;
  readonly tenant: Tenant;
  readonly isolation: IsolationClass;
  readonly egress: boolean;
  /** Image and code, and how large they are. */
  readonly blobs: readonly { readonly digest: string; readonly megabytes: number }[];
  /** Of how long it runs. */
  readonly medianMs: number;
}

/** `giant` sends batches; `large` and `small` send single calls. */
export type Hunger = 'giant' | 'large' | 'small';

export interface Tenant {
  readonly id: string;
  readonly hunger: Hunger;
  /** Its share of all that is asked for, in sandbox seconds. */
  readonly share: number;
  readonly functions: FleetFunction[];
}

const SHAPES: readonly (readonly [weight: number, shape: { memoryMiB: number; cpus: number }])[] = [
  [40, { memoryMiB: 4_096, cpus: 2 }],
  [30, { memoryMiB: 8_192, cpus: 4 }],
  [20, { memoryMiB: 16_384, cpus: 8 }],
  [8, { memoryMiB: 32_768, cpus: 16 }],
  [2, { memoryMiB: 131_072, cpus: 64 }],
];

export function makeWorker(random: Random, at: number): FleetWorker {
  const { memoryMiB, cpus } = random.weighted(SHAPES);
  return {
    workerId: `worker_${at}`,
    // Owners lease what is free, which is no round number.
    memoryMiB: Math.floor(memoryMiB * (0.6 + 0.4 * random.next())),
    cpus,
    diskMiB: 4_096 * cpus,
    isolation: random.weighted<IsolationClass>([
      [60, 'microvm'],
      [40, 'gvisor'],
    ]),
    egress: random.chance(0.4),
    habit: random.weighted<Habit>([
      [30, 'always'],
      [35, 'shifts'],
      [35, 'idle'],
    ]),
    downloadRate: random.pick([5, 20, 50, 100]),
    cachedBlobs: random.int(12, 60),
  };
}

const NEEDS: readonly (readonly [weight: number, need: { memoryMiB: number; cpus: number }])[] = [
  [35, { memoryMiB: 128, cpus: 1 }],
  [25, { memoryMiB: 256, cpus: 1 }],
  [18, { memoryMiB: 512, cpus: 1 }],
  [10, { memoryMiB: 1_024, cpus: 1 }],
  [6, { memoryMiB: 2_048, cpus: 2 }],
  [4, { memoryMiB: 4_096, cpus: 4 }],
  [2, { memoryMiB: 8_192, cpus: 8 }],
];

/** Images that many functions share, such as a language's. */
const SHARED_IMAGES = 12;

export function makeTenants(random: Random, count: number): Tenant[] {
  const hungerOf = (at: number): Hunger => (at === 0 ? 'giant' : at <= 5 ? 'large' : 'small');
  const weights = Array.from({ length: count }, (_, at) => (at === 0 ? 40 : at <= 5 ? 6 : 30 / (count - 6)));
  const sum = weights.reduce((all, weight) => all + weight, 0);
  return weights.map((weight, at) => {
    const tenant: Tenant = { id: `tenant_${at}`, hunger: hungerOf(at), share: weight / sum, functions: [] };
    const functions = tenant.hunger === 'small' ? random.int(1, 8) : random.int(10, 30);
    for (let number = 0; number < functions; number += 1) tenant.functions.push(makeFunction(random, tenant, number));
    return tenant;
  });
}

function makeFunction(random: Random, tenant: Tenant, number: number): FleetFunction {
  const id = `${tenant.id}_function_${number}`;
  const hasOwnImage = random.chance(0.3);
  const image = hasOwnImage ? `${id}_image` : `image_${Math.floor(SHARED_IMAGES * random.next() ** 2)}`;
  const egress = random.chance(0.25);
  return {
    id,
    tenant,
    ...random.weighted(NEEDS),
    diskMiB: 1_024,
    isolation: random.chance(0.5) ? 'microvm' : 'gvisor',
    egress,
    blobs: [
      { digest: image, megabytes: hasOwnImage ? random.int(50, 400) : 60 },
      { digest: `${id}_code`, megabytes: random.int(1, 20) },
    ],
    medianMs: random.weighted([
      [40, 2_000],
      [40, 15_000],
      [20, 120_000],
    ]),
  };
}
