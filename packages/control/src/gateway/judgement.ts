import type { AttemptEnded, FunctionError, Outcome, ParsedResult } from '@cocore/protocol';

/** How an attempt ended, with what it left looked at. */
export interface Judgement {
  readonly outcome: Outcome;
  readonly message: string | null;
  /** JSON text. */
  readonly result: string | null;
  readonly error: FunctionError | null;
}

const MAX_MESSAGE_LENGTH = 1000;

/** An end that has a result: its process ended and was not ended. */
export function endsByItself(outcome: Outcome): boolean {
  return ['exited', 'signaled', 'oom', 'rejected'].includes(outcome.kind);
}

/**
 * Holds what the result says against what the worker says. What the process did itself says more than a result that is none: only a success is
 * changed by that.
 */
export function judge(
  { outcome, message }: Pick<AttemptEnded, 'outcome' | 'message'>,
  result: ParsedResult,
): Judgement {
  const asReported = { outcome, message, result: null, error: null };
  switch (result.kind) {
    case 'none':
      return asReported;
    case 'value':
      return { ...asReported, result: result.json };
    case 'exception': {
      const code = outcome.kind === 'exited' ? outcome.code : 0;
      const { type, message: text } = result.error;
      return {
        ...asReported,
        outcome: { kind: 'raised', code },
        message: cut(`${type}: ${text}`),
        error: result.error,
      };
    }
    case 'invalid': {
      const succeeded = outcome.kind === 'exited' && outcome.code === 0;
      return {
        ...asReported,
        outcome: succeeded ? { kind: 'rejected', cause: 'result_invalid' } : outcome,
        message: message ?? result.message,
      };
    }
  }
}

const cut = (text: string): string => text.slice(0, MAX_MESSAGE_LENGTH).toWellFormed();
