import * as access from './access.ts';
import * as assignments from './assignments.ts';
import * as rows from './attempt-rows.ts';
import * as builds from './builds.ts';
import type { Context } from './context.ts';
import * as ends from './ends.ts';
import * as executions from './executions.ts';
import * as functions from './functions.ts';
import * as reports from './reports.ts';
import { tryWrite } from './try-write.ts';
import * as unusedBlobs from './unused-blobs.ts';

/** The verbs that change something: they run in the writer's thread, each in its own part of a group's transaction. */
export const WRITE_VERBS = {
  tryWrite,
  ensureProject: access.ensureProject,
  createKey: access.createKey,
  deleteKey: access.deleteKey,
  createJoinToken: access.createJoinToken,
  openSession: access.openSession,
  closeSession: access.closeSession,
  recordBeat: access.recordBeat,
  createFunctionVersion: functions.createFunctionVersion,
  addBlob: functions.addBlob,
  createBuild: builds.createBuild,
  keepLayer: builds.keepLayer,
  useLayer: builds.useLayer,
  forgetUnusedBlobs: unusedBlobs.forgetUnusedBlobs,
  createExecutions: executions.createExecutions,
  requestCancel: executions.requestCancel,
  expireQueue: executions.expireQueue,
  assign: assignments.assign,
  recordAccepted: reports.recordAccepted,
  recordRefused: reports.recordRefused,
  recordStarted: reports.recordStarted,
  recordOutput: reports.recordOutput,
  recordEnd: ends.recordEnd,
  recordLost: ends.recordLost,
  endByControl: ends.endByControl,
  endUnplaceable: ends.endUnplaceable,
};

/** The verbs that only read what is committed, by one statement each: they run on a connection of their own. */
export const READ_VERBS = {
  listKeys: access.listKeys,
  findKey: access.findKey,
  listWorkers: access.listWorkers,
  listFunctions: functions.listFunctions,
  readFunction: functions.readFunction,
  hasBlob: functions.hasBlob,
  isBlobNeeded: inOneCommit(unusedBlobs.isBlobNeeded),
  readExecution: inOneCommit(executions.readExecution),
  listExecutions: inOneCommit(executions.listExecutions),
  loadLive: rows.loadLive,
  readNext: rows.readNext,
  compareEnd: ends.compareEnd,
  readInline: reports.readInline,
};

/** For several statements that must see the same commit. */
function inOneCommit<Rest extends unknown[], Result>(
  verb: (context: Context, ...rest: Rest) => Result,
): (context: Context, ...rest: Rest) => Result {
  return (context, ...rest) => context.db.read(() => verb(context, ...rest));
}

export type WriteVerb = keyof typeof WRITE_VERBS;

/** A verb as its caller sees it. */
type Asked<Verb> = Verb extends (context: Context, ...rest: infer Rest) => infer Result
  ? (...rest: Rest) => Promise<Result>
  : never;
export type AskedWrites = { [Name in WriteVerb]: Asked<(typeof WRITE_VERBS)[Name]> };
export type AskedReads = { [Name in keyof typeof READ_VERBS]: Asked<(typeof READ_VERBS)[Name]> };
