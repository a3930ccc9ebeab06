import { assertNever, CocoreError, endStatement, type OutputFrame, type StreamName } from '@cocore/protocol';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { LiveAttempt } from '../dispatch/live-attempt.ts';
import type { EventHub } from '../events.ts';
import type { Metrics } from '../metrics.ts';
import type { Reported, Store } from '../store/store.ts';
import { isSignedBy } from './identity.ts';
import type { AttemptReport, WorkerSession } from './session.ts';

/** Output frames that wait together are committed together, up to this. */
const MAX_BATCH_BYTES = 1024 * 1024;

export interface AttemptReportsParts {
  readonly store: Store;
  readonly dispatcher: Dispatcher;
  readonly hub: EventHub;
  readonly metrics: Metrics;
}

type Item = {
  readonly session: WorkerSession;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
} & ({ readonly frame: OutputFrame } | { readonly report: AttemptReport });

/**
 * Works off what workers report, in order for each attempt, and acknowledges what is committed. What comes from a session that is no longer the
 * attempt's, or about an attempt that is over, changes nothing.
 */
export class AttemptReports {
  readonly #parts: AttemptReportsParts;
  /** Present while the attempt has something under way. */
  readonly #inboxes = new Map<LiveAttempt, Item[]>();

  constructor(parts: AttemptReportsParts) {
    this.#parts = parts;
  }

  output(session: WorkerSession, attempt: LiveAttempt, frame: OutputFrame): Promise<void> {
    return new Promise((done, failed) => this.#add(attempt, { session, done, failed, frame }));
  }

  /** @throws CocoreError when the worker broke the contract */
  async report(session: WorkerSession, report: AttemptReport): Promise<void> {
    const attempt = this.#parts.dispatcher.live.get(report.attemptId);
    if (attempt === undefined || attempt.link !== session) {
      await this.#reportOfAnother(session, report);
      return;
    }
    await new Promise<void>((done, failed) => this.#add(attempt, { session, done, failed, report }));
  }

  #add(attempt: LiveAttempt, item: Item): void {
    const inbox = this.#inboxes.get(attempt);
    if (inbox !== undefined) {
      inbox.push(item);
      return;
    }
    const fresh = [item];
    this.#inboxes.set(attempt, fresh);
    void this.#work(attempt, fresh);
  }

  async #work(attempt: LiveAttempt, inbox: Item[]): Promise<void> {
    while (inbox.length > 0) {
      const items = takeNext(inbox);
      const [first] = items;
      try {
        if (!attempt.over && attempt.link === first!.session) {
          if ('report' in first!) await this.#report(first.session, attempt, first.report);
          else
            await this.#append(
              first!.session,
              attempt,
              items.flatMap((item) => ('frame' in item ? [item.frame] : [])),
            );
        }
        for (const item of items) item.done();
      } catch (error) {
        for (const item of items) item.failed(error);
      }
    }
    this.#inboxes.delete(attempt);
  }

  async #append(session: WorkerSession, attempt: LiveAttempt, frames: readonly OutputFrame[]): Promise<void> {
    if (attempt.state === 'assigned') throw violation('output came before the attempt was accepted');
    const reported = await attempt.writer.append(frames, session.sessionId);
    if (reported === 'conflict') throw violation('output contradicts what is committed');
    if (reported === 'stale') return;
    const channel = session.channelOf(attempt);
    if (channel !== undefined) {
      for (const stream of new Set<StreamName>(frames.map((frame) => frame.stream))) {
        session.send({ type: 'OutputAck', channel, stream, offset: attempt.writer.committed(stream) });
      }
    }
    if (reported === 'repeated') return;
    this.#parts.metrics.outputBytes.inc(frames.reduce((sum, frame) => sum + frame.data.length, 0));
    this.#parts.hub.publish(attempt.executionId, 'output');
  }

  async #report(session: WorkerSession, attempt: LiveAttempt, report: AttemptReport): Promise<void> {
    const { store, dispatcher, hub } = this.#parts;
    switch (report.type) {
      case 'AttemptAccepted': {
        if (attempt.revokedUptimeMs !== null) {
          session.send(revokeOf(attempt.attemptId));
          return;
        }
        const { reported, deadlineAtMs } = await store.recordAccepted(attempt, session.sessionId, report);
        check(reported, report);
        if (reported !== 'recorded') return;
        attempt.state = 'accepted';
        attempt.deadlineAtMs = deadlineAtMs;
        hub.publish(attempt.executionId, 'changed');
        return;
      }
      case 'AttemptRefused': {
        const reported = await store.recordRefused(attempt, session.sessionId);
        check(reported, report);
        if (reported === 'recorded' && !attempt.over) dispatcher.refused(attempt, report.cause);
        return;
      }
      case 'AttemptStarted': {
        const { reported, deadlineAtMs } = await store.recordStarted(attempt, session.sessionId, report.agoMs);
        check(reported, report);
        if (reported !== 'recorded') return;
        attempt.state = 'started';
        attempt.deadlineAtMs = deadlineAtMs;
        hub.publish(attempt.executionId, 'changed');
        return;
      }
      case 'AttemptEnded':
        await this.#end(session, attempt, report);
        return;
      default:
        assertNever(report);
    }
  }

  async #end(
    session: WorkerSession,
    attempt: LiveAttempt,
    report: Extract<AttemptReport, { type: 'AttemptEnded' }>,
  ): Promise<void> {
    const [isSigned, stdout, stderr] = await Promise.all([
      isSignedBy(session.publicKey, endStatement(report), report.signature),
      attempt.writer.digest('stdout'),
      attempt.writer.digest('stderr'),
    ]);
    if (!isSigned) throw new CocoreError('signature_invalid', 'the signature of an end is not the worker’s');
    const reported = await this.#parts.store.recordEnd(attempt, session.sessionId, {
      outcome: report.outcome,
      message: report.message,
      stdout: report.stdout,
      stderr: report.stderr,
      usage: report.usage,
      signature: report.signature,
      intact: stdout === report.stdout.sha256 && stderr === report.stderr.sha256,
      beat: attempt.beat,
    });
    check(reported, report);
    if (reported !== 'recorded') return;
    session.send({ type: 'AttemptEndedAck', attemptId: attempt.attemptId });
    if (!attempt.over) this.#parts.dispatcher.ended(attempt, 'worker');
  }

  /** About an attempt that is not live in this session: ended, given to another, or never this worker's. */
  async #reportOfAnother(session: WorkerSession, report: AttemptReport): Promise<void> {
    if (report.type !== 'AttemptEnded') {
      session.send(revokeOf(report.attemptId));
      return;
    }
    const reported = await this.#parts.store.compareEnd(report.attemptId, session.workerId, report.signature);
    check(reported, report);
    if (reported === 'stale') session.send(revokeOf(report.attemptId));
    else session.send({ type: 'AttemptEndedAck', attemptId: report.attemptId });
  }
}

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

const violation = (message: string) => new CocoreError('protocol_violation', message);
const revokeOf = (attemptId: string) =>
  ({ type: 'AttemptRevoke', attemptId, why: 'it is not this session’s' }) as const;

function check(reported: Reported, report: AttemptReport): void {
  if (reported === 'conflict') throw violation(`${report.type} contradicts what is recorded of ${report.attemptId}`);
}
