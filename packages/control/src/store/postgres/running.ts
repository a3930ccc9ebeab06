import type { Count, Statement, Verb } from '../verbs/statements.ts';
import type { Answer, Asked } from './round.ts';

export type Outcome = { readonly value: unknown } | { readonly error: unknown };

/** A statement to send, and who waits for its answer. */
export interface Sent {
  readonly asked: Asked;
  /** Null where nobody waits. */
  readonly running: Running | null;
  /** It must change one row. */
  readonly isChange: boolean;
}

export const control = (sql: string, ...parameters: Asked['parameters'][number][]): Sent => ({
  asked: { sql, parameters },
  running: null,
  isChange: false,
});

/** A verb under way: it goes on from answer to answer. */
export class Running {
  readonly #verb: Verb<unknown>;
  #kind: Statement['kind'] = 'get';
  /** Null while it waits for an answer. */
  outcome: Outcome | null = null;
  hasWritten = false;

  constructor(verb: Verb<unknown>) {
    this.#verb = verb;
  }

  /** Goes on with what it was answered, until it has to wait again or is at its end. What it asks for meanwhile is added to `sent`. */
  advance(answer: Answer | null, sent: Sent[], count: (count: Count) => void): void {
    let given = answer === null ? undefined : this.#take(answer);
    try {
      for (;;) {
        const { done, value } = this.#verb.next(given);
        if (done === true) {
          this.outcome = { value };
          return;
        }
        given = undefined;
        if (value.kind === 'count') {
          this.hasWritten = true;
          count(value.count);
          continue;
        }
        const { kind, sql, parameters } = value;
        const isWaiting = kind === 'get' || kind === 'all' || kind === 'run';
        this.hasWritten ||= kind !== 'get' && kind !== 'all';
        sent.push({ asked: { sql, parameters }, running: isWaiting ? this : null, isChange: kind === 'change' });
        if (isWaiting) {
          this.#kind = kind;
          return;
        }
      }
    } catch (error) {
      this.outcome = { error };
    }
  }

  #take({ rows, count }: Answer): unknown {
    if (this.#kind === 'all') return rows;
    return this.#kind === 'get' ? rows[0] : count;
  }
}
