import {
  ATTEMPT_STREAMS,
  type AttemptStream,
  assertNever,
  CocoreError,
  endStatement,
  isAtLeast,
  type OfStreams,
  ofStreams,
  type Outcome,
  type OutputFrame,
  type ParsedResult,
  parseResult,
  PREPARE_TIMEOUT_MS,
} from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import { deadlineUptimeMs, type LiveAttempt } from '../dispatch/live-attempt.ts';
import type { EventHub } from '../events.ts';
import type { Metrics } from '../metrics.ts';
import type { OutputWriter } from '../output/output-store.ts';
import type { EndRecorded, OutputGrowth, Reported, ReportedEnd, ReportedLifeAs, Store } from '../store/store.ts';
import { endsByItself, judge, type Judgement } from './judgement.ts';
import { type Life, lifeOf, type ReportOf, resultBytesOf } from './life.ts';
import type { AttemptReport, WorkerSession } from './session.ts';

/** Output frames that wait together are committed together, up to this. */
const MAX_BATCH_BYTES = 1024 * 1024;
/** What could not be committed is tried again after this long. */
const RETRY_MS = 1_000;
/** So many faults about one attempt end it. */
export const MAX_FAULTS = 3;
/** How long a worker that reported an end may take to send what is missing of the output. */
export const DELIVERY_MS = 120_000;

export interface AttemptReportsParts {
  readonly store: Store;
  readonly dispatcher: Dispatcher;
  readonly hub: EventHub;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Logger;
}

type Item = {
  /** Of its arrival. */
  readonly order: number;
  readonly session: WorkerSession;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
} & (
  | { readonly frame: OutputFrame }
  | {
      readonly report: AttemptReport;
      /** To be thrown in its turn. */
      readonly fault: CocoreError | null;
    }
);

/** What one attempt's worker has said and is not worked off. */
interface Inbox {
  /** Not asked for yet, in order. */
  readonly waiting: Item[];
  /** Failed, and to be asked for again before all that waits. */
  readonly again: Item[];
  /** How many are asked for and not answered. */
  asking: number;
  /** Somebody takes from it, or will. */
  isWorking: boolean;
  /** The store was asked to record that the attempt is accepted. */
  isAccepting: boolean;
  /** It could not be committed as a whole: it is asked for piece by piece. */
  isPiecemeal: boolean;
}

/**
 * Works off what workers report, in order for each attempt, and acknowledges what is committed. What comes from a session that is no longer the
 * attempt's, or about an attempt that is over, changes nothing.
 */
export class AttemptReports {
  readonly #parts: AttemptReportsParts;
  /** Present while the attempt has something under way. */
  readonly #inboxes = new Map<LiveAttempt, Inbox>();
  #order = 0;

  constructor(parts: AttemptReportsParts) {
    this.#parts = parts;
  }

  output(session: WorkerSession, attempt: LiveAttempt, frame: OutputFrame): Promise<void> {
    return new Promise((done, failed) =>
      this.#add(attempt, { order: this.#nextOrder(), session, done, failed, frame }),
    );
  }

  /** @throws CocoreError when the worker broke the contract */
  async report(session: WorkerSession, report: AttemptReport): Promise<void> {
    const attempt = this.#parts.dispatcher.live.get(report.attemptId);
    if (attempt === undefined || attempt.link !== session) {
      await this.#reportOfAnother(session, report);
      return;
    }
    const fault = report.type === 'AttemptEnded' ? signatureFault(session, report) : null;
    await new Promise<void>((done, failed) =>
      this.#add(attempt, { order: this.#nextOrder(), session, done, failed, report, fault }),
    );
  }

  #nextOrder(): number {
    this.#order += 1;
    return this.#order;
  }

  #add(attempt: LiveAttempt, item: Item): void {
    attempt.underWay += 1;
    let inbox = this.#inboxes.get(attempt);
    if (inbox === undefined) {
      inbox = { waiting: [], again: [], asking: 0, isWorking: false, isAccepting: false, isPiecemeal: false };
      this.#inboxes.set(attempt, inbox);
    }
    inbox.waiting.push(item);
    if (!inbox.isWorking) void this.#work(attempt, inbox);
  }

  /**
   * Asks the store for one thing after the other without waiting for the commit between: the store keeps the order, and what
   * came together is committed together. Nothing is asked for behind something that failed.
   */
  async #work(attempt: LiveAttempt, inbox: Inbox): Promise<void> {
    inbox.isWorking = true;
    // All that was received in one piece is here then: a whole life is asked for at once.
    await Promise.resolve();
    const life = this.#wholeLife(attempt, inbox);
    if (life !== null) await this.#askFor(attempt, inbox, inbox.waiting.splice(0), this.#life.bind(this, life));
    while (inbox.waiting.length > 0 && inbox.again.length === 0) {
      await this.#askFor(attempt, inbox, takeNext(inbox.waiting), this.#ask.bind(this));
    }
    inbox.isWorking = false;
    this.#next(attempt, inbox);
  }

  /** All that waits, when it is all that there is to say of the attempt. */
  #wholeLife(attempt: LiveAttempt, { waiting, again, asking, isAccepting, isPiecemeal }: Inbox): Life | null {
    if (attempt.state !== 'assigned' || attempt.revokedUptimeMs !== null) return null;
    if (isPiecemeal || isAccepting || asking > 0 || again.length > 0) return null;
    const { session } = waiting[0]!;
    const isSound = waiting.every((item) => item.session === session && ('frame' in item || item.fault === null));
    return isSound ? lifeOf(waiting, attempt.isolation) : null;
  }

  async #askFor(attempt: LiveAttempt, inbox: Inbox, items: readonly Item[], ask: Ask): Promise<void> {
    const [first] = items;
    const done = () => {
      for (const item of items) item.done();
      this.#settled(attempt, inbox, items);
    };
    const failed = (error: unknown) => this.#failed(attempt, inbox, items, error);
    inbox.asking += 1;
    try {
      const asked = this.#isCurrent(attempt, first!.session) ? await ask(first!, attempt, inbox, items) : DROPPED;
      asked.committed.then(done, failed);
    } catch (error) {
      failed(error);
    }
  }

  /** What the disk or the store would not do is asked for again, in order, with all that came after it; the worker waits for its acknowledgement. */
  #failed(attempt: LiveAttempt, inbox: Inbox, items: readonly Item[], error: unknown): void {
    // Behind a failure even a violation may be its consequence.
    if (error instanceof CocoreError && inbox.again.length === 0) {
      for (const item of items) item.failed(error);
      this.#settled(attempt, inbox, items);
      attempt.faults += 1;
      if (attempt.faults === MAX_FAULTS) void this.#endFaulty(attempt);
      return;
    }
    if (inbox.again.length === 0 && !attempt.over) {
      this.#parts.log.error({ err: error, attemptId: attempt.attemptId }, 'a report could not be committed');
    }
    inbox.again.push(...items);
    this.#settled(attempt, inbox, []);
  }

  /** @param items of which nothing is under way any more */
  #settled(attempt: LiveAttempt, inbox: Inbox, items: readonly Item[]): void {
    inbox.asking -= 1;
    attempt.underWay -= items.length;
    this.#next(attempt, inbox);
  }

  #next(attempt: LiveAttempt, inbox: Inbox): void {
    if (inbox.isWorking || inbox.asking > 0) return;
    if (inbox.again.length === 0) {
      this.#inboxes.delete(attempt);
      return;
    }
    // Until then it does not count as idle: nothing is asked for.
    inbox.isWorking = true;
    setTimeout(() => {
      inbox.waiting.unshift(...inbox.again.splice(0).sort((one, other) => one.order - other.order));
      attempt.writer.beginAgain();
      void this.#work(attempt, inbox);
    }, RETRY_MS).unref();
  }

  #isCurrent(attempt: LiveAttempt, session: WorkerSession): boolean {
    return !attempt.over && attempt.link === session;
  }

  async #ask(first: Item, attempt: LiveAttempt, inbox: Inbox, items: readonly Item[]): Promise<Asked> {
    const { session } = first;
    if (attempt.revokedUptimeMs !== null && attempt.state === 'assigned') {
      // It was taken back before it was accepted: only that the worker does not want it either is news.
      const isRefusal = 'report' in first && first.report.type === 'AttemptRefused';
      if (!isRefusal) {
        if ('report' in first) session.send(revokeOf(attempt.attemptId));
        return DROPPED;
      }
    }
    if ('frame' in first) {
      const frames = items.flatMap((item) => ('frame' in item ? [item.frame] : []));
      const isEarly = attempt.state === 'assigned' && !inbox.isAccepting;
      const { reported } = await attempt.writer.append(frames, session.sessionId);
      return { committed: this.#appended(session, attempt, frames, isEarly, reported) };
    }
    const { report, fault } = first;
    if (fault !== null) throw fault;
    switch (report.type) {
      case 'AttemptAccepted':
        inbox.isAccepting = true;
        return { committed: this.#accepted(session, attempt, report) };
      case 'AttemptRefused':
        return { committed: this.#refused(session, attempt, report) };
      case 'AttemptStarted':
        return { committed: this.#started(session, attempt, report) };
      case 'AttemptEnded':
        return this.#ended(session, attempt, report);
      default:
        return assertNever(report);
    }
  }

  async #life(life: Life, { session }: Item, attempt: LiveAttempt, inbox: Inbox): Promise<Asked> {
    const { accepted, isStarted, frames, ended } = life;
    inbox.isPiecemeal = true;
    const result = parsedResult(ended, () => resultBytesOf(life));
    const judgement = judge(ended, await result);
    const { store, dispatcher, metrics, hub } = this.#parts;
    let reported: ReportedLifeAs = 'untold';
    const record = async (growth: readonly OutputGrowth[]): Promise<Reported> => {
      const end = this.#reportedEnd(attempt, ended, judgement, await digestsOf(attempt.writer, ended));
      reported = await store.recordLife(attempt, session.sessionId, { sandbox: accepted, isStarted, growth, end });
      if (reported === 'untold') throw new Error(UNTOLD);
      return reported === 'stale' ? 'stale' : 'recorded';
    };
    const append =
      frames.length === 0
        ? { reported: record([]) }
        : await attempt.writer.append(frames, session.sessionId, record).catch(untold);
    const settle = async (): Promise<void> => {
      const appended = await append.reported;
      if (appended === 'stale' || reported === 'stale') return;
      // Output that is none was not asked to be recorded, and its end neither.
      if (reported === 'untold') throw new Error(UNTOLD);
      attempt.state = isStarted ? 'started' : 'accepted';
      dispatcher.accepted(attempt.attemptId);
      if (frames.length > 0) {
        metrics.outputBytes.inc(bytesOf(frames));
        metrics.outputCommits.inc();
        hub.publish(attempt.executionId, 'output');
      }
      await this.#over(session, attempt, judgement.outcome, reported);
    };
    return { committed: settle() };
  }

  async #appended(
    session: WorkerSession,
    attempt: LiveAttempt,
    frames: readonly OutputFrame[],
    isEarly: boolean,
    asked: Promise<Reported>,
  ): Promise<void> {
    const reported = await asked;
    if (reported === 'conflict') {
      // An acceptance that came behind it may be recorded by now.
      if (isEarly || attempt.state === 'assigned') throw violation('output came before the attempt was accepted');
      throw new Error('output before this could not be kept');
    }
    if (reported === 'stale') return;
    const channel = session.channelOf(attempt);
    if (channel !== undefined) {
      for (const stream of new Set<AttemptStream>(frames.map((frame) => frame.stream))) {
        session.send({ type: 'OutputAck', channel, stream, offset: attempt.writer.committed(stream) });
      }
    }
    if (reported === 'repeated') return;
    this.#parts.metrics.outputBytes.inc(bytesOf(frames));
    this.#parts.metrics.outputCommits.inc();
    this.#parts.hub.publish(attempt.executionId, 'output');
  }

  async #accepted(session: WorkerSession, attempt: LiveAttempt, report: ReportOf<'AttemptAccepted'>): Promise<void> {
    if (attempt.state === 'assigned' && !isAtLeast(report.isolation, attempt.isolation)) {
      await this.#tooWeak(session, attempt, report);
      return;
    }
    const { reported, deadlineAtMs } = await this.#parts.store.recordAccepted(attempt, session.sessionId, {
      driver: report.driver,
      isolation: report.isolation,
    });
    check(reported, report);
    if (reported !== 'stale' && attempt.egress) {
      session.send({ type: 'AttemptAcceptedAck', attemptId: attempt.attemptId });
    }
    if (reported !== 'recorded') return;
    attempt.state = 'accepted';
    this.#parts.dispatcher.accepted(attempt.attemptId);
    attempt.deadlineUptimeMs = deadlineUptimeMs(this.#parts.clock, deadlineAtMs!, PREPARE_TIMEOUT_MS);
    this.#parts.hub.publish(attempt.executionId, 'changed');
  }

  /** Its worker would run it in a weaker class than it promised: it is taken back, and this session gets nothing more. */
  async #tooWeak(session: WorkerSession, attempt: LiveAttempt, report: ReportOf<'AttemptAccepted'>): Promise<void> {
    const { attemptId, workerId, isolation: required } = attempt;
    const facts = { attemptId, workerId, given: report.isolation, required };
    this.#parts.log.error(facts, 'a worker would run an attempt in too weak an isolation class');
    const reported = await this.#parts.store.recordRefused(attempt, session.sessionId);
    check(reported, report);
    if (reported !== 'recorded') return;
    const why = `isolation ${report.isolation} is too weak: ${required} is required`;
    session.send({ type: 'AttemptRevoke', attemptId, why });
    if (!attempt.over) this.#parts.dispatcher.refused(attempt, 'stopping');
  }

  async #refused(session: WorkerSession, attempt: LiveAttempt, report: ReportOf<'AttemptRefused'>): Promise<void> {
    const reported = await this.#parts.store.recordRefused(attempt, session.sessionId);
    check(reported, report);
    if (reported === 'recorded' && !attempt.over) this.#parts.dispatcher.refused(attempt, report.cause);
  }

  async #started(session: WorkerSession, attempt: LiveAttempt, report: ReportOf<'AttemptStarted'>): Promise<void> {
    const { store, hub, clock } = this.#parts;
    const { reported, deadlineAtMs } = await store.recordStarted(attempt, session.sessionId, report.agoMs);
    check(reported, report);
    if (reported !== 'recorded') return;
    attempt.state = 'started';
    attempt.deadlineUptimeMs = deadlineUptimeMs(clock, deadlineAtMs!, attempt.timeoutMs);
    hub.publish(attempt.executionId, 'changed');
  }

  async #ended(session: WorkerSession, attempt: LiveAttempt, report: ReportOf<'AttemptEnded'>): Promise<Asked> {
    if (report.outcome.kind === 'raised') throw violation('what a result says is not the worker’s to tell');
    const [result, digests] = await Promise.all([
      parsedResult(report, () => attempt.writer.readAll('result')),
      digestsOf(attempt.writer, report),
    ]);
    const judgement = judge(report, result);
    const end = this.#reportedEnd(attempt, report, judgement, digests);
    const recorded = this.#parts.store.recordEnd(attempt, session.sessionId, end);
    const settle = async (): Promise<void> => {
      const reported = await recorded;
      if (reported === 'incomplete') {
        if (attempt.writer.hasFailed) throw new Error('output before this could not be kept');
        this.#incomplete(session, attempt);
        return;
      }
      if (reported === 'stale' || reported === 'repeated' || reported === 'conflict') {
        check(reported, report);
        return;
      }
      await this.#over(session, attempt, judgement.outcome, reported);
    };
    return { committed: settle() };
  }

  /** Its end is committed. */
  async #over(session: WorkerSession, attempt: LiveAttempt, outcome: Outcome, recorded: EndRecorded): Promise<void> {
    session.send({ type: 'AttemptEndedAck', attemptId: attempt.attemptId });
    if (attempt.over) return;
    const end = recorded === 'goes_on' ? null : { record: recorded === 'recorded' ? null : recorded };
    await this.#parts.dispatcher.ended(attempt, 'worker', outcome, end);
  }

  #reportedEnd(
    attempt: LiveAttempt,
    report: ReportOf<'AttemptEnded'>,
    judgement: Judgement,
    { digests, isIntact }: Digests,
  ): ReportedEnd {
    return {
      ...judgement,
      streams: ofStreams((stream) => ({ ...report[stream], sha256: digests[stream] })),
      artifactFiles: report.artifactFiles,
      usage: report.usage,
      signature: report.signature,
      final: report.final === true || attempt.incompleteEnds > 0,
      intact: isIntact,
      beat: attempt.beat,
      isAwaited: this.#parts.hub.isAwaited(attempt.executionId),
    };
  }

  /**
   * The end came, and not all of the output before it. In a new session its worker begins again from what is committed; what it does not send
   * then either, it does not have.
   */
  #incomplete(session: WorkerSession, attempt: LiveAttempt): void {
    if (!this.#isCurrent(attempt, session)) return;
    const { attemptId, workerId } = attempt;
    this.#parts.log.warn({ attemptId, workerId }, 'an end came without all of its output');
    attempt.incompleteEnds += 1;
    const byMs = this.#parts.clock.uptimeMs() + DELIVERY_MS;
    attempt.deadlineUptimeMs = Math.min(attempt.deadlineUptimeMs ?? byMs, byMs);
    session.close(4003, 'incomplete');
  }

  /** Each of its faults cost the worker its session, with all else that it runs. */
  async #endFaulty(attempt: LiveAttempt): Promise<void> {
    const { store, dispatcher, log } = this.#parts;
    try {
      const { sessionId } = attempt;
      if (attempt.state === 'assigned') {
        // What was never accepted has no end: another may have it, as if this worker had not answered.
        const result = await store.recordLost(attempt, attempt.workerId, attempt.beat, sessionId);
        if (result === 'stale' || attempt.over) return;
        attempt.link?.send(revokeOf(attempt.attemptId));
        if (result === 'ended') await dispatcher.ended(attempt, 'control');
        else dispatcher.lost(attempt);
        return;
      }
      if (!(await store.endByControl(attempt, 'protocol', attempt.beat, sessionId)) || attempt.over) return;
      attempt.link?.send(revokeOf(attempt.attemptId));
      await dispatcher.ended(attempt, 'control');
    } catch (error) {
      log.error({ err: error, attemptId: attempt.attemptId }, 'a faulty attempt could not be ended');
      // The next fault tries again.
      attempt.faults -= 1;
    }
  }

  /** About an attempt that is not live in this session: ended, given to another, or never this worker's. */
  async #reportOfAnother(session: WorkerSession, report: AttemptReport): Promise<void> {
    if (report.type !== 'AttemptEnded') {
      session.send(revokeOf(report.attemptId));
      return;
    }
    const { attemptId, signature } = report;
    const compared = await this.#parts.store.compareEnd(attemptId, session.workerId, signature);
    const reported = compared === 'late' ? await this.#recordLate(session, report) : compared;
    check(reported, report);
    if (reported === 'stale') session.send(revokeOf(report.attemptId));
    else session.send({ type: 'AttemptEndedAck', attemptId });
  }

  async #recordLate(session: WorkerSession, report: ReportOf<'AttemptEnded'>): Promise<Reported> {
    const { type: _type, attemptId, final: _final, ...end } = report;
    const fault = signatureFault(session, report);
    if (fault !== null) throw fault;
    return this.#parts.store.recordLateEnd(attemptId, session.workerId, end);
  }
}

interface Digests {
  readonly digests: OfStreams<string>;
  readonly isIntact: boolean;
}

/** Of the whole streams; and whether what came is what the worker had, as far as it knows that itself. */
async function digestsOf(writer: OutputWriter, report: ReportOf<'AttemptEnded'>): Promise<Digests> {
  const digests = ofStreams(() => '');
  let isIntact = true;
  for (const stream of ATTEMPT_STREAMS) {
    const { sha256, hashFrom } = report[stream];
    digests[stream] = await writer.digest(stream);
    isIntact &&= sha256 === (hashFrom === undefined ? digests[stream] : await writer.digestFrom(stream, hashFrom));
  }
  return { digests, isIntact };
}

function signatureFault(session: WorkerSession, report: ReportOf<'AttemptEnded'>): CocoreError | null {
  if (session.ends.isSigned(endStatement(report), report.signature)) return null;
  return new CocoreError('signature_invalid', 'the signature of an end is not the worker’s');
}

/** What the function wrote as its result, as far as it has come; an attempt that was stopped has none. */
async function parsedResult(
  { outcome, result }: ReportOf<'AttemptEnded'>,
  read: () => Uint8Array | Promise<Uint8Array>,
): Promise<ParsedResult> {
  if (result.bytes === 0 || !endsByItself(outcome)) return { kind: 'none' };
  return parseResult(await read(), outcome.kind === 'exited' && outcome.code !== 0);
}

/** Something that the store was asked for. */
interface Asked {
  /** Resolves when it is committed and acknowledged. */
  readonly committed: Promise<void>;
}

type Ask = (first: Item, attempt: LiveAttempt, inbox: Inbox, items: readonly Item[]) => Promise<Asked>;

const UNTOLD = 'the whole life of an attempt could not be recorded at once';

/** What breaks the contract is found again piece by piece, behind the acceptance: of an attempt that is not accepted nobody counts it. */
const untold = (cause: unknown): never => {
  throw new Error(UNTOLD, { cause });
};

const DROPPED: Asked = { committed: Promise.resolve() };

/** The first item; when it is output, with the output of the same session that waits right behind it. */
function takeNext(inbox: Item[]): Item[] {
  const first = inbox[0]!;
  let count = 1;
  if ('frame' in first) {
    let bytes = first.frame.data.length;
    for (; count < inbox.length; count += 1) {
      const item = inbox[count]!;
      if (!('frame' in item) || item.session !== first.session) break;
      bytes += item.frame.data.length;
      if (bytes > MAX_BATCH_BYTES) break;
    }
  }
  return inbox.splice(0, count);
}

const bytesOf = (frames: readonly OutputFrame[]): number => frames.reduce((sum, frame) => sum + frame.data.length, 0);
const violation = (message: string) => new CocoreError('protocol_violation', message);
const revokeOf = (attemptId: string) =>
  ({ type: 'AttemptRevoke', attemptId, why: 'it is not this session’s' }) as const;

function check(reported: Reported, report: AttemptReport): void {
  if (reported === 'conflict') throw violation(`${report.type} contradicts what is recorded of ${report.attemptId}`);
}
