import { ATTEMPT_STREAMS, isAtLeast, type IsolationClass, ofStreams, type OutputFrame } from '@cocore/protocol';
import type { AttemptReport } from './session.ts';

export type ReportOf<Type extends AttemptReport['type']> = Extract<AttemptReport, { type: Type }>;

/** A whole attempt, from its acceptance to its end, that its worker told at once. */
export interface Life {
  readonly accepted: ReportOf<'AttemptAccepted'>;
  readonly isStarted: boolean;
  /** Its output, each byte once, from the first on. */
  readonly frames: readonly OutputFrame[];
  readonly ended: ReportOf<'AttemptEnded'>;
}

/**
 * What was told, when it is a whole life and nothing about it is to be looked at piece by piece.
 *
 * @param isolation what its function requires
 */
export function lifeOf(
  told: readonly ({ readonly report: AttemptReport } | { readonly frame: OutputFrame })[],
  isolation: IsolationClass,
): Life | null {
  const [first] = told;
  const last = told.at(-1);
  if (first === undefined || !('report' in first) || first.report.type !== 'AttemptAccepted') return null;
  if (last === undefined || !('report' in last) || last.report.type !== 'AttemptEnded') return null;
  const [accepted, ended] = [first.report, last.report];
  if (!isAtLeast(accepted.isolation, isolation) || ended.outcome.kind === 'raised') return null;
  // Digests of a part are of what is committed.
  if (ATTEMPT_STREAMS.some((stream) => ended[stream].hashFrom !== undefined)) return null;
  const frames: OutputFrame[] = [];
  const lengths = ofStreams(() => 0);
  let isStarted = false;
  for (const item of told.slice(1, -1)) {
    if ('frame' in item) {
      const { stream, offset, data } = item.frame;
      if (offset !== lengths[stream]) return null;
      lengths[stream] += data.length;
      frames.push(item.frame);
    } else if (item.report.type === 'AttemptStarted' && !isStarted) isStarted = true;
    else return null;
  }
  return { accepted, isStarted, frames, ended };
}

/** All bytes of its result. */
export const resultBytesOf = ({ frames }: Life): Uint8Array =>
  Buffer.concat(frames.flatMap(({ stream, data }) => (stream === 'result' ? [data] : [])));
