import type { AttemptEnded, IsolationClass, MeterReading, Outcome } from '@cocore/protocol';
import type { AttemptOutput } from './attempt-output.ts';

/** What an attempt was accepted with. */
export interface Acceptance {
  readonly driver: string;
  readonly isolation: IsolationClass;
}

/** What an attempt is to the session: facts to report until they are acknowledged, and output to send. */
export interface Attempt {
  readonly attemptId: string;
  readonly acceptance: Acceptance;
  readonly output: AttemptOutput;
  /** When the agent said that the process runs, by the uptime clock; null before. */
  readonly startedAtMs: number | null;
  /** The end, once it is known, written down, and the sandbox is gone. */
  readonly ended: AttemptEnded | null;
  /** How long ago the agent last answered; null before its first word and after its end. */
  agentAgeMs(): number | null;
  /** The control server asks for bytes that are not here any more: the end comes without them, and says so. */
  loseOutput(): void;
}

/** How an attempt ended, before it is signed. The first cause decides. */
export interface AttemptEnd {
  readonly outcome: Outcome;
  readonly message: string | null;
}

/** A stop that comes from outside the sandbox; `revoked` is not reported. */
export type StopCause = 'cancelled' | 'host_reclaimed' | 'revoked';

export const NOT_MEASURED: MeterReading = { cpuMs: null, memoryPeakBytes: null, wallMs: null };
