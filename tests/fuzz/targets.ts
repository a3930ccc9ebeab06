import { hostileWorkerTarget } from './hostile-worker.ts';
import { httpTarget, rawHttpTarget } from './http.ts';
import { parserTargets } from './parsers.ts';
import type { LiveTarget, Target } from './target.ts';

/** Targets that need a server; each opens when it is chosen. */
const LIVE: Readonly<Record<string, () => Promise<LiveTarget>>> = {
  http: httpTarget,
  'raw-http': rawHttpTarget,
  'hostile-worker': hostileWorkerTarget,
};

export interface OpenTargets extends AsyncDisposable {
  readonly targets: readonly Target[];
  /** Of all there are. */
  readonly names: readonly string[];
  /** What is found only when all is over. */
  finish(): Promise<unknown[]>;
}

/** @param chosen names; null for all */
export async function openTargets(chosen: readonly string[] | null): Promise<OpenTargets> {
  const isChosen = (name: string) => chosen?.includes(name) ?? true;
  const parsers = parserTargets();
  const names = [...parsers.map(({ name }) => name), ...Object.keys(LIVE)];
  await using scope = new AsyncDisposableStack();
  const live: LiveTarget[] = [];
  for (const [name, open] of Object.entries(LIVE)) if (isChosen(name)) live.push(scope.use(await open()));
  const held = scope.move();
  return {
    targets: [...parsers.filter(({ name }) => isChosen(name)), ...live],
    names,
    finish: async () => {
      const settled = await Promise.allSettled(live.map((target) => target.finish()));
      return settled.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}
