import { createHash } from 'node:crypto';
import { Conflict, type Count } from '../verbs/statements.ts';
import type { Connection } from './connection.ts';
import { isCollision, isLost } from './errors.ts';
import type { Answer } from './round.ts';
import { control, type Outcome, Running, type Sent } from './running.ts';

/** Held by each group of writes: shared by those that may run beside others, else alone. Of this database; the number means nothing. */
const WRITING_LOCK = 4_930_201;
/** The first number of the locks that verbs hold alone; the second is made from what is locked. */
const NAMED_LOCKS = 4_930_205;
const BEGIN = control('BEGIN');
const LOCK = {
  together: control('SELECT pg_advisory_xact_lock_shared(?)', WRITING_LOCK),
  alone: control('SELECT pg_advisory_xact_lock(?)', WRITING_LOCK),
};
const COMMIT = control('COMMIT');
const SAVEPOINT = control('SAVEPOINT one');
const RELEASE = control('RELEASE SAVEPOINT one');
const ROLLBACK_TO = control('ROLLBACK TO SAVEPOINT one');

const COUNT_OF_PROJECT = `
  UPDATE projects SET live_executions = live_executions + ?, queued_executions = queued_executions + ?, output_bytes = output_bytes + ?
  WHERE project_id = ? RETURNING live_executions AS live, queued_executions AS queued`;
const COUNT_OF_FUNCTION =
  'UPDATE functions SET queued_executions = queued_executions + ? WHERE project_id = ? AND function_id = ? RETURNING queued_executions AS queued';

/** A verb of a group, to be begun as often as it takes. */
export interface Member {
  readonly begin: () => Running;
  /** What it must not share with another that runs beside it; null for one that must run alone. */
  readonly keys: readonly string[] | null;
  /** Keys of it that other servers keep too. */
  readonly locks: readonly string[];
}

/** The transaction was to be committed, and whether it was is not known. */
export class UnknownCommit extends Error {
  readonly outcomes: readonly Outcome[];

  constructor(outcomes: readonly Outcome[], cause: unknown) {
    super('the connection was lost at the commit', { cause });
    this.outcomes = outcomes;
  }
}

/** What the members did cannot stand beside what others did, or has to be undone in part. */
class RunAgain extends Error {}

/**
 * Runs the members in one transaction and commits it. Those that may run beside others are run in step: each round sends the next statements of all.
 * Where that cannot stand, and for the others, they run one after the other while no server writes anything else.
 *
 * @param mark what names the group, in the same transaction
 * @throws UnknownCommit; else nothing is committed
 */
export async function runGroup(connection: Connection, members: readonly Member[], mark: Sent): Promise<Outcome[]> {
  if (members.every(({ keys }) => keys !== null)) {
    try {
      const outcomes = await together(connection, members, mark);
      return await commit(connection, outcomes);
    } catch (error) {
      if (!(error instanceof RunAgain || error instanceof Conflict || isCollision(error))) throw error;
      await connection.round([control('ROLLBACK').asked]);
    }
  }
  const outcomes = await oneByOne(connection, members, mark);
  return commit(connection, outcomes);
}

async function commit(connection: Connection, outcomes: Outcome[]): Promise<Outcome[]> {
  try {
    const [answer] = await connection.round([COMMIT.asked]);
    if (answer!.command !== 'COMMIT') throw new Error('the database has rolled the group back');
  } catch (error) {
    if (isLost(error)) throw new UnknownCommit(outcomes, error);
    throw error;
  }
  return outcomes;
}

/** Sends and empties the list. @returns the answers that somebody waits for @throws Conflict */
async function send(connection: Connection, sent: Sent[]): Promise<[Running, Answer][]> {
  const all = sent.splice(0);
  const answers = await connection.round(all.map(({ asked }) => asked));
  const due: [Running, Answer][] = [];
  for (const [index, { running, isChange, asked }] of all.entries()) {
    const answer = answers[index]!;
    if (isChange && answer.count !== 1) throw new Conflict(`a row is not as it was read: ${asked.sql}`);
    if (running !== null) due.push([running, answer]);
  }
  return due;
}

interface Follower {
  readonly running: Running;
  readonly next: Follower[];
  waitsFor: number;
}

async function together(connection: Connection, members: readonly Member[], mark: Sent): Promise<Outcome[]> {
  const counters = new Counters();
  const all = inOrderOfKeys(members);
  const byRunning = new Map(all.map((one) => [one.running, one]));
  const sent: Sent[] = [BEGIN, LOCK.together, ...locksOf(members), mark];
  let due: [Running, Answer | null][] = all
    .filter(({ waitsFor }) => waitsFor === 0)
    .map(({ running }) => [running, null]);
  for (;;) {
    // Grows while it is worked off.
    for (const [running, answer] of due) {
      running.advance(answer, sent, counters.add);
      if (running.outcome === null) continue;
      if ('error' in running.outcome && running.hasWritten) throw new RunAgain();
      for (const next of byRunning.get(running)!.next) {
        next.waitsFor -= 1;
        if (next.waitsFor === 0) due.push([next.running, null]);
      }
    }
    if (!sent.some(({ running }) => running !== null)) break;
    due = await send(connection, sent);
  }
  const counted = counters.statements();
  const answers = await send(connection, [...sent, ...counted]);
  counters.check(answers.map(([, { rows }]) => rows[0] as { live?: number; queued: number }));
  return all.map(({ running }) => running.outcome!);
}

/** In one order for all servers, so that no two wait for each other. */
function locksOf(members: readonly Member[]): Sent[] {
  const numbers = new Set<number>();
  for (const { locks } of members) for (const name of locks) numbers.add(lockNumber(name));
  return [...numbers]
    .sort((one, other) => one - other)
    .map((number) => control('SELECT pg_advisory_xact_lock(?, ?)', NAMED_LOCKS, number));
}

const lockNumber = (name: string): number => createHash('sha256').update(name).digest().readInt32BE();

/** A member with a key of an earlier one follows when that is at its end. */
function inOrderOfKeys(members: readonly Member[]): Follower[] {
  const last = new Map<string, Follower>();
  return members.map(({ begin, keys }) => {
    const one: Follower = { running: begin(), next: [], waitsFor: 0 };
    for (const key of keys!) {
      const before = last.get(key);
      if (before !== undefined && before !== one) {
        before.next.push(one);
        one.waitsFor += 1;
      }
      last.set(key, one);
    }
    return one;
  });
}

async function oneByOne(connection: Connection, members: readonly Member[], mark: Sent): Promise<Outcome[]> {
  const sent: Sent[] = [BEGIN, LOCK.alone, mark];
  await send(connection, sent);
  const outcomes: Outcome[] = [];
  for (const { begin } of members) outcomes.push(await alone(connection, begin(), sent));
  return outcomes;
}

async function alone(connection: Connection, running: Running, sent: Sent[]): Promise<Outcome> {
  const count = (change: Count) => sent.push(...countsOf(change));
  let answer: Answer | null = null;
  sent.push(SAVEPOINT);
  try {
    for (;;) {
      running.advance(answer, sent, count);
      if (running.outcome !== null) break;
      [[, answer]] = (await send(connection, sent)) as [[Running, Answer]];
    }
    if ('error' in running.outcome) throw running.outcome.error;
    sent.push(RELEASE);
    await send(connection, sent);
    return running.outcome;
  } catch (error) {
    if (isLost(error)) throw error;
    const isBegun = !sent.includes(SAVEPOINT);
    sent.length = 0;
    if (isBegun) await connection.round([ROLLBACK_TO.asked, RELEASE.asked]);
    return { error };
  }
}

function countsOf({ projectId, functionId, live, queued, outputBytes }: Count): Sent[] {
  const ofProject = control(COUNT_OF_PROJECT, live, queued, outputBytes, projectId);
  return queued === 0 ? [ofProject] : [ofProject, control(COUNT_OF_FUNCTION, queued, projectId, functionId)];
}

interface Sum {
  readonly projectId: string;
  readonly functionId: string | null;
  live: number;
  queued: number;
  outputBytes: number;
}

/** What a group changes in counters, written at its end: so each row is written once, and all groups write them in the same order. */
class Counters {
  readonly #sums = new Map<string, Sum>();
  readonly #checks: Count[] = [];
  #order: Sum[] = [];

  readonly add = (count: Count): void => {
    const { projectId, functionId, live, queued, outputBytes } = count;
    const ofProject = this.#sum(projectId, null);
    ofProject.live += live;
    ofProject.queued += queued;
    ofProject.outputBytes += outputBytes;
    if (queued !== 0) this.#sum(projectId, functionId).queued += queued;
    if (count.check !== null) this.#checks.push(count);
  };

  statements(): Sent[] {
    // Projects before functions.
    this.#order = [...this.#sums].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, sum]) => sum);
    return this.#order.map(({ projectId, functionId, live, queued, outputBytes }) => ({
      asked:
        functionId === null
          ? { sql: COUNT_OF_PROJECT, parameters: [live, queued, outputBytes, projectId] }
          : { sql: COUNT_OF_FUNCTION, parameters: [queued, projectId, functionId] },
      running: NOBODY,
      isChange: true,
    }));
  }

  /** @param held as the statements gave it, in their order @throws RunAgain when some verb would not have done what it did, had it seen that */
  check(held: readonly { readonly live?: number; readonly queued: number }[]): void {
    const of = (projectId: string, functionId: string | null) =>
      held[this.#order.findIndex((sum) => sum.projectId === projectId && sum.functionId === functionId)]!;
    for (const { projectId, functionId, check } of this.#checks) {
      const { live, queued } = of(projectId, null);
      try {
        check!({ live: live!, queued, queuedOfFunction: of(projectId, functionId).queued });
      } catch {
        throw new RunAgain();
      }
    }
  }

  #sum(projectId: string, functionId: string | null): Sum {
    const key = functionId === null ? `project ${projectId}` : `to ${projectId} ${functionId}`;
    let sum = this.#sums.get(key);
    if (sum === undefined) {
      sum = { projectId, functionId, live: 0, queued: 0, outputBytes: 0 };
      this.#sums.set(key, sum);
    }
    return sum;
  }
}

function* nothing() {
  // Asks for nothing.
}
/** Stands for the group itself. */
const NOBODY = new Running(nothing());
