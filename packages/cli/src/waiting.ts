import type { CocoreClient } from '@cocore/client';
import { isTerminal, type Waiting } from '@cocore/protocol';
import { plain } from './print.ts';

/** An execution that has not started after this long is worth a word; after that it is asked about less and less often. */
const WORTH_A_WORD_MS = 2_000;
const MAX_PAUSE_MS = 30_000;

/** The reason, and where it stands. */
export const whyItWaits = ({ message, position }: Waiting): string =>
  position === null ? message : `${message} (number ${position} of its project’s queue)`;

/** Says why the execution has not started, and again when that is another reason. What goes wrong with asking is left to who follows it. */
export function sayWhyItWaits(
  { executions }: { readonly executions: Pick<CocoreClient['executions'], 'get'> },
  id: string,
  say: (line: string) => unknown = (line) => process.stderr.write(line),
  everyMs = WORTH_A_WORD_MS,
): Disposable {
  let over = false;
  let pauseMs = everyMs;
  let said: Waiting['code'] | null = null;
  const ask = async (): Promise<void> => {
    const record = await executions.get(id).catch(() => null);
    if (over) return;
    if (record !== null && record.waiting !== null && record.waiting.code !== said) {
      said = record.waiting.code;
      say(`cocore: it waits: ${plain(whyItWaits(record.waiting))}\n`);
    }
    if (record !== null && (record.phase === 'executing' || record.phase === 'stopping' || isTerminal(record.state)))
      return;
    pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS);
    timer = setTimeout(() => void ask(), pauseMs);
  };
  let timer = setTimeout(() => void ask(), pauseMs);
  return {
    [Symbol.dispose]: () => {
      over = true;
      clearTimeout(timer);
    },
  };
}
