import { z } from 'zod';

/**
 * How an attempt ended, as the worker (or, for a lost worker, the control server) saw it. An end is a fact, not an
 * error: `endOf` maps it to the public state and reason.
 */
export const Outcome = z.discriminatedUnion('kind', [
  /** The function's process exited by itself. */
  z.strictObject({ kind: z.literal('exited'), code: z.int().min(0).max(255) }),
  /** As `exited`, and its handler's exception is why: the control server found it in the result. */
  z.strictObject({ kind: z.literal('raised'), code: z.int().min(1).max(255) }),
  /** It exited with 0, and what it left cannot be taken. */
  z.strictObject({ kind: z.literal('rejected'), cause: z.enum(['result_invalid', 'artifacts_too_large']) }),
  /** It was killed by a signal that neither CoCore nor the kernel's memory limit sent. */
  z.strictObject({ kind: z.literal('signaled'), signal: z.int().min(1).max(64) }),
  /** It went over its memory, and the whole of it was killed. */
  z.strictObject({ kind: z.literal('oom') }),
  /** A clock ran out: `run` counts from `startedAt`, `prepare` from acceptance. */
  z.strictObject({ kind: z.literal('timed_out'), clock: z.enum(['run', 'prepare']) }),
  /** The user's cancellation stopped it (or came before it began). */
  z.strictObject({ kind: z.literal('cancelled') }),
  /** The function's process could not be made: its image cannot be mounted, or the runtime refused to start it. */
  z.strictObject({ kind: z.literal('not_started'), cause: z.enum(['image', 'start']) }),
  /** The platform failed it. */
  z.strictObject({
    kind: z.literal('lost'),
    cause: z.enum([
      /** The worker vanished: no heartbeat for a lease, or it came back without the attempt. */
      'host_lost',
      /** The worker is stopping, or its owner wants the machine now. */
      'host_reclaimed',
      /** The agent did not answer for its limit, or the microVM ended without a report. */
      'agent_lost',
      /** The guest broke the frame protocol. */
      'protocol',
      /** The driver could not make a sandbox. */
      'sandbox',
      /** A blob that the attempt needs could not be fetched whole. */
      'blob',
      /** The output that was committed is not what the end claims. */
      'output_lost',
    ]),
  }),
]);
export type Outcome = z.infer<typeof Outcome>;

/** How an attempt ended; one that nobody had taken also because the attempt before it was not lost after all. */
export const AttemptOutcome = z.discriminatedUnion('kind', [
  ...Outcome.options,
  z.strictObject({ kind: z.literal('superseded') }),
]);
export type AttemptOutcome = z.infer<typeof AttemptOutcome>;

/**
 * How the function would have ended is not known, for a reason that is its host's or the way's from there. None of these is in a task's power: one that
 * kills its sandbox or its agent must not tour the fleet.
 */
export function wentWithItsHost(outcome: Outcome): boolean {
  return outcome.kind === 'lost' && ['host_lost', 'host_reclaimed', 'output_lost'].includes(outcome.cause);
}

export const LostCause = Outcome.options[8].shape.cause;
export type LostCause = z.infer<typeof LostCause>;
