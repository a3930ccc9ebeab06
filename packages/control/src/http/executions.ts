import {
  type AttemptRecord,
  CancelAnswer,
  CancelMany,
  CancelManyAnswer,
  CocoreError,
  decodeUtf8,
  ExecutionAnswer,
  ExecutionCreate,
  ExecutionList,
  ExecutionListQuery,
  ExecutionRecord,
  type InlineBytes,
  isTerminal,
  MAX_INLINE_OUTPUT_BYTES,
  type StreamName,
  type Waiting,
  WaitQuery,
} from '@cocore/protocol';
import { z } from 'zod';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { LiveAttempt } from '../dispatch/live-attempt.ts';
import { shownAttempt } from '../shown-attempt.ts';
import type { CreatedExecution } from '../store/store.ts';
import { AwaitedEnd } from './awaited-end.ts';
import { newExecution } from './execution-input.ts';
import type { HttpParts } from './parts.ts';
import { type Answer, type Route, route } from './route.ts';

/** Arguments and environment of 1 MiB, escaped, and inline standard input in base64. */
const BODY_LIMIT_BYTES = 8 * 1024 * 1024;

export function executionRoutes(parts: HttpParts): Route[] {
  const { store } = parts;
  return [
    route({
      method: 'POST',
      path: '/v1/functions/{function}/executions',
      summary: 'Runs the newest version of a function; with wait, answers when it has ended',
      access: 'key',
      query: WaitQuery,
      body: ExecutionCreate,
      bodyLimitBytes: BODY_LIMIT_BYTES,
      answers: { 200: ExecutionAnswer, 202: ExecutionRecord },
      handle: async ({ caller, parameters, query, body, signal }) => {
        const { executionId, queued } = await create(parts, caller.projectId, parameters['function']!, body);
        // What was cancelled by the same commit has been told of as ended already.
        const isNew = queued !== null && isHeld(parts.dispatcher, queued.attemptId);
        return answer(parts, caller.projectId, executionId, query.wait, signal, 202, isNew);
      },
    }),
    route({
      method: 'GET',
      path: '/v1/executions',
      summary: 'Lists the executions of the project, newest first',
      access: 'key',
      query: ExecutionListQuery,
      answers: { 200: ExecutionList },
      handle: async ({ caller, query }) => {
        const list = await store.listExecutions(caller.projectId, query);
        return { status: 200, body: { ...list, executions: list.executions.map((one) => asOfNow(parts, one)) } };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/executions/{execution}',
      summary: 'One execution; with wait, answers when it has ended or the time is over',
      access: 'key',
      query: WaitQuery,
      answers: { 200: z.union([ExecutionAnswer, ExecutionRecord]) },
      handle: async ({ caller, parameters, query, signal }) =>
        answer(parts, caller.projectId, parameters['execution']!, query.wait, signal, 200),
    }),
    route({
      method: 'POST',
      path: '/v1/executions/{execution}/cancel',
      summary: 'Asks for an execution to be stopped',
      access: 'key',
      body: z.strictObject({}),
      answers: { 200: CancelAnswer },
      handle: async ({ caller, parameters }) => {
        const executionId = parameters['execution']!;
        const cancelled = await parts.dispatcher.cancellations.cancel(caller.projectId, executionId);
        if (cancelled === null) throw executionNotFound(executionId);
        const execution = await readExecution(parts, caller.projectId, executionId);
        return { status: 200, body: { result: cancelled.result, execution } };
      },
    }),
    route({
      method: 'POST',
      path: '/v1/executions/cancel',
      summary: 'Asks for all executions to be stopped that meet every criterion given; with dryRun, counts them',
      access: 'key',
      body: CancelMany,
      answers: { 200: CancelManyAnswer },
      handle: async ({ caller, body }) => ({ status: 200, body: await cancelMany(parts, caller.projectId, body) }),
    }),
  ];
}

async function cancelMany(parts: HttpParts, projectId: string, body: CancelMany): Promise<CancelManyAnswer> {
  const { function: name, batch, state, createdBefore, dryRun } = body;
  // What is created while it works is not meant.
  const nowMs = parts.clock.nowMs() + 1;
  const createdBeforeMs = createdBefore === undefined ? nowMs : Math.min(Date.parse(createdBefore), nowMs);
  const filter = { function: name, batch, state, createdBeforeMs };
  if (dryRun) {
    const matched = await parts.store.countLive(projectId, filter);
    return { matched, cancelled: 0, requested: 0, alreadyRequested: 0 };
  }
  const counts = await parts.dispatcher.cancellations.cancelAll(projectId, filter);
  const { cancelled, requested, already_requested: alreadyRequested } = counts;
  return { matched: cancelled + requested + alreadyRequested, cancelled, requested, alreadyRequested };
}

export const executionNotFound = (executionId: string): CocoreError =>
  new CocoreError('execution_not_found', `there is no execution ${executionId} in this project`);

/** @throws CocoreError `execution_not_found` */
export async function readExecution(
  parts: HttpParts,
  projectId: string,
  executionId: string,
): Promise<ExecutionRecord> {
  const record = await parts.store.readExecution(projectId, executionId);
  if (record === null) throw executionNotFound(executionId);
  return asOfNow(parts, record);
}

/** Beats, and why it waits, are kept in memory. */
function asOfNow({ dispatcher }: HttpParts, record: ExecutionRecord): ExecutionRecord {
  if (isTerminal(record.state)) return record;
  const attempts = record.attempts.map((attempt) => {
    const beat = dispatcher.live.get(attempt.id)?.beat;
    if (beat === undefined || beat === null) return attempt;
    return { ...attempt, lastBeatAt: new Date(beat.atMs).toISOString(), agentAgeMs: beat.agentAgeMs };
  });
  return { ...record, attempts, waiting: waitingOf(dispatcher, record.attempts.at(-1)!) };
}

function waitingOf(dispatcher: Dispatcher, { id, state, notBefore }: AttemptRecord): Waiting | null {
  const attempt = dispatcher.live.get(id);
  if (attempt !== undefined) return fetchingOf(attempt);
  const waiting = dispatcher.elsewhere.why(id);
  if (waiting !== null || state !== 'queued' || notBefore === null) return waiting;
  return { code: 'backoff', message: `it is tried again at ${notBefore}`, position: null };
}

/** Its worker's own word. */
function fetchingOf({ state, fetching, blobs }: LiveAttempt): Waiting | null {
  if (state === 'started' || fetching === null) return null;
  const what = ['its image', 'its code'][blobs.indexOf(fetching.digest)] ?? 'a part of its input';
  const message = `its worker fetches ${what}, ${(fetching.bytes / 2 ** 20).toFixed(1)} MiB`;
  return { code: 'fetching', message, position: null };
}

async function create(
  parts: HttpParts,
  projectId: string,
  name: string,
  body: ExecutionCreate,
): Promise<CreatedExecution> {
  const execution = newExecution(projectId, name, body, body.idempotencyKey ?? null);
  const created = await parts.dispatcher.arrivals.create(execution, parts.limits);
  if (created.queued !== null) parts.metrics.executionsCreated.inc();
  return created;
}

const isHeld = (dispatcher: Dispatcher, attemptId: string): boolean =>
  dispatcher.live.get(attemptId) !== undefined || dispatcher.queuedAttempt(attemptId) !== undefined;

/** The record at once, or, when asked to wait, the record and output as they are at the end or when time is over. */
async function answer(
  parts: HttpParts,
  projectId: string,
  executionId: string,
  waitMs: number | undefined,
  signal: AbortSignal,
  statusBeforeEnd: number,
  isNew = false,
): Promise<Answer> {
  if (waitMs === undefined) {
    return { status: statusBeforeEnd, body: await readExecution(parts, projectId, executionId) };
  }
  const record = await readWhenEnded(parts, projectId, executionId, waitMs, signal, isNew);
  const ended = isTerminal(record.state);
  const [stdout, stderr] =
    ended && !record.expired
      ? await Promise.all([
          inlineBytes(parts, projectId, record, 'stdout'),
          inlineBytes(parts, projectId, record, 'stderr'),
        ])
      : [null, null];
  return { status: ended ? 200 : statusBeforeEnd, body: { ...record, stdout, stderr } };
}

async function readWhenEnded(
  parts: HttpParts,
  projectId: string,
  executionId: string,
  waitMs: number,
  signal: AbortSignal,
  isNew: boolean,
): Promise<ExecutionRecord> {
  const read = () => readExecution(parts, projectId, executionId);
  using end = new AwaitedEnd(parts.hub, executionId, read);
  // What was made in this turn of the event loop cannot have ended.
  const record = isNew ? null : await read();
  if (record !== null && isTerminal(record.state)) return record;
  return (await end.within(waitMs, signal)) ?? (await read());
}

async function inlineBytes(
  parts: HttpParts,
  projectId: string,
  record: ExecutionRecord,
  stream: StreamName,
): Promise<InlineBytes> {
  const { bytes } = record.output[stream];
  if (bytes === 0) return { encoding: 'utf8', data: '', complete: true };
  const attempt = { projectId, attemptId: shownAttempt(record) };
  const data = await parts.output.readAll(attempt, stream, 0, Math.min(bytes, MAX_INLINE_OUTPUT_BYTES));
  const complete = bytes <= MAX_INLINE_OUTPUT_BYTES;
  const text = decodeUtf8(data);
  if (text !== null) return { encoding: 'utf8', data: text, complete };
  return { encoding: 'base64', data: Buffer.from(data).toString('base64'), complete };
}
