import { type Command, InvalidArgumentError } from 'commander';
import { CocoreError, RetryPolicy } from '@cocore/protocol';
import { durationMs, wholeNumber } from './units.ts';

/** What a command was told of retries. */
export interface RetryOptions {
  readonly retries?: number;
  readonly retryOn?: readonly string[];
  readonly retryBackoff?: number;
}

const RetriedReason = RetryPolicy.shape.on.unwrap().element;

function reasons(text: string): string[] {
  const named = text.split(',');
  const unknown = named.find((reason) => !RetriedReason.safeParse(reason).success);
  if (unknown === undefined) return named;
  throw new InvalidArgumentError(`There is no reason ${unknown}; there are ${RetriedReason.options.join(', ')}.`);
}

export const withRetries = (command: Command): Command =>
  command
    .option('--retries <n>', 'how often it is tried again when it does not succeed; 0 if not given', wholeNumber)
    .option('--retry-on <reasons>', 'only for these reasons, such as exit_code,oom', reasons)
    .option(
      '--retry-backoff <duration>',
      'the wait before the first retry, doubled for each further one; 1s',
      durationMs,
    );

/** Undefined where nothing was said; null for none. @throws CocoreError `usage` */
export function retriesOf({ retries, retryOn, retryBackoff }: RetryOptions): RetryPolicy | null | undefined {
  if (retries === undefined) {
    if (retryOn === undefined && retryBackoff === undefined) return undefined;
    throw new CocoreError('usage', '--retry-on and --retry-backoff say more of --retries, which is not given');
  }
  if (retries === 0) return null;
  const given = {
    max: retries,
    ...(retryOn === undefined ? {} : { on: retryOn }),
    ...(retryBackoff === undefined ? {} : { backoffMs: retryBackoff }),
  };
  const policy = RetryPolicy.safeParse(given);
  if (policy.success) return policy.data;
  throw new CocoreError('usage', `--retries: ${policy.error.issues[0]!.message}`);
}
