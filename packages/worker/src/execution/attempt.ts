import type {
  AttemptEnded,
  AttemptStream,
  BlobRef,
  IsolationClass,
  MeterReading,
  OfStreams,
  Outcome,
} from '@cocore/protocol';
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
  /** It begins only when its acceptance is acknowledged. */
  readonly hasNetwork: boolean;
  /** The blob that is fetched for it; null when all that it needs is here, or none is asked for yet. */
  readonly fetching: BlobRef | null;
  /** When the agent said that the process runs, by the uptime clock; null before. */
  readonly startedAtMs: number | null;
  /** The end, once it is known, written down, and the sandbox is gone. */
  readonly ended: AttemptEnded | null;
  /** How long ago the agent last answered; null before its first word and after its end. */
  agentAgeMs(): number | null;
  /** A new session: what the server has of each stream. @returns those of which it wants bytes that are not here any more */
  resume(offsets: OfStreams<number>): AttemptStream[];
  /** The control server asks for bytes that are not here any more: the end comes without them, and says so. */
  loseOutput(): void;
}

/** How an attempt ended, before it is signed. The first cause decides. */
export interface AttemptEnd {
  readonly outcome: Outcome;
  readonly message: string | null;
}

/** A stop that comes from outside the sandbox. `given_up`: the control server has ended it without us; `cut_off`: it may have; `revoked` is not even reported. */
export type StopCause = 'cancelled' | 'host_reclaimed' | 'given_up' | 'cut_off' | 'revoked';

export const NOT_MEASURED: MeterReading = { cpuMs: null, memoryPeakBytes: null, wallMs: null };
