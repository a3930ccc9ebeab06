import type { CocoreClient } from '@cocore/client';
import { plain } from './print.ts';

/** An execution that nothing has taken after this long is worth a word. */
const WORTH_A_WORD_MS = 2_000;

/** Says once why nothing takes the execution, if nothing does. What goes wrong with asking is left to who follows it. */
export function sayWhyItWaits(
  { executions }: { readonly executions: Pick<CocoreClient['executions'], 'get'> },
  id: string,
  say: (line: string) => unknown = (line) => process.stderr.write(line),
  everyMs = WORTH_A_WORD_MS,
): Disposable {
  let over = false;
  const ask = async (): Promise<void> => {
    const record = await executions.get(id).catch(() => null);
    if (over) return;
    if (record !== null && record.waiting !== null) say(`cocore: it waits: ${plain(record.waiting.message)}\n`);
    else if (record === null || record.state === 'open') timer = setTimeout(() => void ask(), everyMs);
  };
  let timer = setTimeout(() => void ask(), everyMs);
  return {
    [Symbol.dispose]: () => {
      over = true;
      clearTimeout(timer);
    },
  };
}
