import { z } from 'zod';
import { endOf, Reason } from './execution.ts';
import { type Outcome, wentWithItsHost } from './outcome.ts';

/**
 * How an execution goes on when one of its attempts has ended. Two counters: `redeliveries` make good what a host did to an attempt, and the user
 * need not know; `retries` are the user's, who asked for them. Both are decided here and nowhere else.
 */

export const MAX_RETRIES = 10;
export const MAX_RETRY_BACKOFF_MS = 60 * 60_000;
/** How often an attempt that was lost with its host, or whose output was, is done again. One that may have changed something in the world is not. */
export const MAX_REDELIVERIES = 2;

/** Ends that are never retried: another attempt would change nothing, or the user wants none. */
const FINAL = ['user_cancel', 'queue_ttl', 'unplaceable'] as const satisfies readonly Reason[];

export const RetryPolicy = z.strictObject({
  /** Attempts beyond the first. */
  max: z.int().min(1).max(MAX_RETRIES),
  /** The reasons that are retried; without it, every one. */
  on: z
    .array(Reason.exclude([...FINAL]))
    .min(1)
    .optional(),
  /** Before the first retry; twice as long before each further one, each time between half of it and the whole by chance. */
  backoffMs: z.int().min(0).max(MAX_RETRY_BACKOFF_MS).default(1_000),
});
export type RetryPolicy = z.infer<typeof RetryPolicy>;

/** Why there is an attempt. */
export const AttemptCause = z.enum(['first', 'redelivery', 'retry']);
export type AttemptCause = z.infer<typeof AttemptCause>;

/** What the decision depends on. */
export interface DeliveryFacts {
  readonly outcome: Outcome;
  readonly cancelRequested: boolean;
  readonly policy: RetryPolicy | null;
  /** How many of each there were. */
  readonly retries: number;
  readonly redeliveries: number;
  /** Whether an attempt may reach others over a network, so that its twin would be seen. */
  readonly hasNetwork: boolean;
  /** Its function says that a twin does no harm. */
  readonly isIdempotent: boolean;
}

export type Delivery =
  { readonly kind: 'end' } | { readonly kind: Exclude<AttemptCause, 'first'>; readonly delayMs: number };

const END: Delivery = { kind: 'end' };

/** @param random from 0 to 1, for the jitter */
export function afterAttempt(facts: DeliveryFacts, random: number): Delivery {
  const { outcome, policy, retries, redeliveries } = facts;
  const { state, reason } = endOf(outcome);
  if (facts.cancelRequested || state === 'success' || reason === null) return END;
  if (wentWithItsHost(outcome) && (!facts.hasNetwork || facts.isIdempotent) && redeliveries < MAX_REDELIVERIES)
    return { kind: 'redelivery', delayMs: 0 };
  if (policy === null || retries >= policy.max || FINAL.some((one) => one === reason)) return END;
  if (policy.on !== undefined && !policy.on.some((one) => one === reason)) return END;
  const longestMs = Math.min(policy.backoffMs * 2 ** retries, MAX_RETRY_BACKOFF_MS);
  return { kind: 'retry', delayMs: Math.round((longestMs * (1 + random)) / 2) };
}
