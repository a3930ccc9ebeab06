import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs } from './clock.ts';
import type { Daemon } from './daemon.ts';
import type { Fleet } from './fleet.ts';
import type { Fault, Plan } from './plan.ts';
import { Random } from './random.ts';
import type { Wire } from './wire.ts';

/** A fault as it was; times by the monotonic clock. */
export interface FaultRun {
  readonly fault: Fault;
  readonly beganMs: number;
  /** When it was healed: from then on everything can be as before. */
  readonly healedMs: number;
}

/** Carries the plan out, from `startMs` on. Resolves when the last fault is healed. */
export async function inject(plan: Plan, fleet: Fleet, startMs: number): Promise<FaultRun[]> {
  return Promise.all(
    plan.faults.map(async (fault, number) => {
      await sleep(Math.max(0, startMs + fault.atMs - nowMs()));
      const beganMs = nowMs();
      await act(fault, fleet, new Random(`inject/${plan.seed}/${number}`));
      return { fault, beganMs, healedMs: nowMs() };
    }),
  );
}

async function act(fault: Fault, fleet: Fleet, random: Random): Promise<void> {
  const { kind, target, forMs } = fault;
  const daemons = daemonsOf(target, fleet);
  const wire = target === 'user' ? fleet.userWire : typeof target === 'number' ? fleet.workerWires[target]! : null;
  switch (kind) {
    case 'kill':
    case 'restart':
      await Promise.all(daemons.map((daemon) => daemon.end(kind === 'kill' ? 'SIGKILL' : 'SIGTERM')));
      await sleep(forMs);
      for (const daemon of daemons) void daemon.start();
      return;
    case 'stop':
      for (const daemon of daemons) daemon.signal('SIGSTOP');
      await sleep(forMs);
      for (const daemon of daemons) daemon.signal('SIGCONT');
      return;
    case 'cut':
      return during(wire!, forMs, () => wire!.cut());
    case 'silence':
      return during(wire!, forMs, () => wire!.stall('up', 'down'));
    case 'mute':
      return during(wire!, forMs, () => wire!.stall('up'));
    case 'deaf':
      return during(wire!, forMs, () => wire!.stall('down'));
    case 'slow':
      return during(wire!, forMs, () => wire!.slow(fault.bytesPerSecond!));
    case 'half-open':
      return wire!.halfOpen(fault.end!);
    case 'tear':
      return wire!.tear(random.next());
    case 'sync':
    case 'full':
    case 'clock':
      for (const { name } of daemons) fleet.hostFaults.get(name)!.set(hostFault(fault));
      await sleep(forMs);
      for (const { name } of daemons) fleet.hostFaults.get(name)!.set({});
      return;
    case 'twin':
      await fleet.startTwin(target as number);
      await sleep(forMs);
      return fleet.endTwin(target as number);
  }
}

const hostFault = ({ kind, wallAheadMs = 0 }: Fault) => ({ sync: kind === 'sync', full: kind === 'full', wallAheadMs });

async function during(wire: Wire, forMs: number, begin: () => void): Promise<void> {
  begin();
  await sleep(forMs);
  wire.heal();
}

function daemonsOf(target: Fault['target'], fleet: Fleet): readonly Daemon[] {
  switch (target) {
    case 'all':
      return fleet.daemons;
    case 'control':
      return [fleet.control];
    case 'user':
      return [];
    default:
      return [fleet.workers[target]!];
  }
}
