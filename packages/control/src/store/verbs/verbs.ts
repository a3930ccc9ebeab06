import * as access from './access.ts';
import * as allowances from './allowances.ts';
import * as arrivals from './arrivals.ts';
import * as assignments from './assignments.ts';
import * as rows from './attempt-rows.ts';
import * as batches from './batches.ts';
import * as builds from './builds.ts';
import { capLocks } from './caps.ts';
import * as cancellations from './cancellations.ts';
import * as creation from './creation.ts';
import * as condemned from './condemned-blobs.ts';
import type { AttemptKey, NewExecution } from '../store.ts';
import type { Context } from './context.ts';
import * as drains from './drains.ts';
import * as ends from './ends.ts';
import * as executions from './executions.ts';
import * as functions from './functions.ts';
import * as idempotency from './idempotency.ts';
import * as incarnation from './incarnation.ts';
import * as largeOutputs from './large-outputs.ts';
import * as reports from './reports.ts';
import * as retention from './retention.ts';
import type { Verb } from './statements.ts';
import * as servers from './servers.ts';
import { tryWrite } from './try-write.ts';
import * as unusedBlobs from './unused-blobs.ts';

/** The verbs that change something: each runs in its own part of a group's transaction. */
export const WRITE_VERBS = {
  tryWrite,
  claimIncarnation: incarnation.claimIncarnation,
  advanceMarker: incarnation.advanceMarker,
  joinServers: servers.joinServers,
  beatServer: servers.beatServer,
  leaveServers: servers.leaveServers,
  claimWorkers: servers.claimWorkers,
  ensureProject: access.ensureProject,
  createKey: access.createKey,
  deleteKey: access.deleteKey,
  createJoinToken: access.createJoinToken,
  openSession: access.openSession,
  setDrained: drains.setDrained,
  recordAllowance: allowances.recordAllowance,
  closeSession: access.closeSession,
  recordBeat: access.recordBeat,
  createFunctionVersion: functions.createFunctionVersion,
  addBlob: functions.addBlob,
  createBuild: builds.createBuild,
  keepLayer: builds.keepLayer,
  useLayer: builds.useLayer,
  condemnBlob: condemned.condemnBlob,
  spareBlob: condemned.spareBlob,
  forgetCondemnedBlob: condemned.forgetCondemnedBlob,
  forgetUnusedBlobs: unusedBlobs.forgetUnusedBlobs,
  createExecutions: creation.createExecutions,
  createAssigned: arrivals.createAssigned,
  createBatch: batches.createBatch,
  forgetIdempotencyKeys: idempotency.forgetIdempotencyKeys,
  expireExecutions: retention.expireExecutions,
  forgetRemovedOutputs: retention.forgetRemovedOutputs,
  beginArchiving: largeOutputs.beginArchiving,
  recordArchived: largeOutputs.recordArchived,
  requestCancel: executions.requestCancel,
  requestCancelOf: cancellations.requestCancelOf,
  expireQueue: executions.expireQueue,
  assign: assignments.assign,
  recordAccepted: reports.recordAccepted,
  recordRefused: reports.recordRefused,
  recordStarted: reports.recordStarted,
  recordOutput: reports.recordOutput,
  recordEnd: ends.recordEnd,
  recordLife: ends.recordLife,
  recordLateEnd: ends.recordLateEnd,
  recordLost: ends.recordLost,
  endByControl: ends.endByControl,
  endUnplaceable: ends.endUnplaceable,
};

/**
 * Those of them that write only what is named by their keys (and counters): they may run beside others, of this server and of others on the same
 * database, as long as no two with one key do. All others run with nobody beside them: they take sessions and attempts away, or look at much.
 *
 * What makes a verb fit for this: it reads what only its session may change, or guards by `change` what another might; its counters are only added to;
 * and what it makes is either under a new id or under a key of the database that a second one would break.
 */
export const KEYS_OF: { readonly [Name in WriteVerb]?: (...parameters: Parameters<AskedWrites[Name]>) => string[] } = {
  beatServer: ({ serverId }) => [serverId],
  leaveServers: (serverId) => [serverId],
  closeSession: (workerId) => [workerId],
  recordBeat: (workerId) => [workerId],
  createExecutions: (executions) => executions.flatMap(idempotencyKeyOf),
  createAssigned: (execution, _limits, { attemptId }) => [...idempotencyKeyOf(execution), attemptId],
  assign: ofAttempt,
  recordAccepted: ofAttempt,
  recordRefused: ofAttempt,
  recordStarted: ofAttempt,
  recordOutput: ofAttempt,
  recordEnd: ofAttempt,
  recordLife: ofAttempt,
};

/**
 * What a verb that runs beside others must hold alone all the same, in the group as its keys, and before other servers: what is counted in several of
 * their transactions.
 */
export const LOCKS_OF: { readonly [Name in WriteVerb]?: (...parameters: Parameters<AskedWrites[Name]>) => string[] } = {
  assign: (attempt, _worker, shared) => (shared === null || shared === undefined ? [] : capLocks(attempt, shared.caps)),
  createAssigned: (execution, _limits, { shared }) => (shared === null ? [] : capLocks(execution, shared.caps)),
};

const idempotencyKeyOf = ({ projectId, idempotencyKey }: NewExecution): string[] =>
  idempotencyKey === null ? [] : [`${projectId} ${idempotencyKey}`];

function ofAttempt({ attemptId }: AttemptKey): string[] {
  return [attemptId];
}

/** The verbs that only read what is committed. */
export const READ_VERBS = {
  listKeys: access.listKeys,
  findKey: access.findKey,
  listWorkers: access.listWorkers,
  mayFetchBlob: access.mayFetchBlob,
  listServers: servers.listServers,
  listFunctions: functions.listFunctions,
  readFunction: functions.readFunction,
  hasBlob: functions.hasBlob,
  isBlobNeeded: unusedBlobs.isBlobNeeded,
  readExecution: executions.readExecution,
  listExecutions: executions.listExecutions,
  readBatch: batches.readBatch,
  countLive: cancellations.countLive,
  listRemovedOutputs: retention.listRemovedOutputs,
  loadLive: rows.loadLive,
  listQueuedIds: rows.listQueuedIds,
  loadAttempts: rows.loadAttempts,
  listCancelRequested: rows.listCancelRequested,
  listWorkerLoads: rows.listWorkerLoads,
  readNext: rows.readNext,
  compareEnd: ends.compareEnd,
  readInline: reports.readInline,
};

/** Those of them that are several statements, which must see the same commit. */
export const IN_ONE_COMMIT: ReadonlySet<string> = new Set<ReadVerb>([
  'isBlobNeeded',
  'listExecutions',
  'readBatch',
  'countLive',
]);

export type WriteVerb = keyof typeof WRITE_VERBS;
export type ReadVerb = keyof typeof READ_VERBS;
/** As whoever runs it sees it. */
export type AnyVerb = (context: Context, ...parameters: readonly unknown[]) => Verb<unknown>;

/** A verb as its caller sees it. */
type Asked<Called> = Called extends (context: Context, ...rest: infer Rest) => Verb<infer Result>
  ? (...rest: Rest) => Promise<Result>
  : never;
export type AskedWrites = { [Name in WriteVerb]: Asked<(typeof WRITE_VERBS)[Name]> };
export type AskedReads = { [Name in ReadVerb]: Asked<(typeof READ_VERBS)[Name]> };

/** The writing verbs, each of which is asked for by its name. */
export const askedBy = (ask: (verb: WriteVerb, parameters: readonly unknown[]) => Promise<unknown>): AskedWrites =>
  Object.fromEntries(
    Object.keys(WRITE_VERBS).map((verb) => [
      verb,
      (...parameters: readonly unknown[]) => ask(verb as WriteVerb, parameters),
    ]),
  ) as AskedWrites;
