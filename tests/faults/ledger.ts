import { existsSync, readFileSync } from 'node:fs';
import { z } from 'zod';

const Row = z.object({
  what: z.enum(['begun', 'gone', 'effect']),
  attemptId: z.string(),
  /** By the monotonic clock of the host. */
  atMs: z.number(),
  pid: z.number(),
  text: z.string(),
});
export type Row = z.infer<typeof Row>;

/** What the functions did to the world, by the world's own account: the file that `COCORE_FAKE_LEDGER` named to the workers. */
export class Ledger {
  readonly #byAttempt: ReadonlyMap<string, readonly Row[]>;

  constructor(rows: readonly Row[]) {
    this.#byAttempt = Map.groupBy(rows, ({ attemptId }) => attemptId);
  }

  static read(path: string): Ledger {
    if (!existsSync(path)) return new Ledger([]);
    const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
    return new Ledger(lines.map((line) => Row.parse(JSON.parse(line))));
  }

  /** When a sandbox of the attempt was gone; null when nobody wrote it, as when its daemon was killed. */
  goneMs(attemptId: string): number | null {
    return this.#of(attemptId).findLast(({ what }) => what === 'gone')?.atMs ?? null;
  }

  /** How often an attempt had an effect. */
  effects(attemptId: string, text: string): number {
    return this.#of(attemptId).filter((row) => row.what === 'effect' && row.text === text).length;
  }

  /** Sandboxes that daemons began and did not say to be gone. */
  left(): readonly { readonly attemptId: string; readonly pid: number }[] {
    return [...this.#byAttempt.values()].flatMap((rows) => {
      const gone = rows.filter(({ what }) => what === 'gone').map(({ pid }) => pid);
      return rows.filter(({ what, pid }) => what === 'begun' && !gone.includes(pid));
    });
  }

  #of(attemptId: string): readonly Row[] {
    return this.#byAttempt.get(attemptId) ?? [];
  }
}
