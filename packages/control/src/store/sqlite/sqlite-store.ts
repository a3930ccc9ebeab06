import { randomBytes } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import type { Store } from '../store.ts';
import * as access from './access.ts';
import * as attempts from './attempts.ts';
import type { Context } from './context.ts';
import { Database } from './database.ts';
import * as executions from './executions.ts';
import * as functions from './functions.ts';
import { migrate } from './migrate.ts';

export interface SqliteStoreOptions {
  readonly path: string;
  /** Milliseconds since the Unix epoch. */
  readonly now?: () => number;
  readonly random?: (bytes: number) => Uint8Array;
}

/**
 * The store in one SQLite file: write-ahead log, synced at each group's commit. Verbs that change something go through
 * `Database.write`; the others read what is committed at once.
 */
export function openSqliteStore(options: SqliteStoreOptions): Store {
  const connection = new DatabaseSync(options.path);
  const db = new Database(connection);
  const context: Context = {
    db,
    now: options.now ?? Date.now,
    random: options.random ?? ((bytes) => randomBytes(bytes)),
  };
  try {
    db.exec(
      'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000',
    );
    migrate(db, context.now());
  } catch (error) {
    connection.close();
    throw error;
  }
  const write = <T>(run: () => T): Promise<T> => db.write(run);
  return {
    ensureProject: (name) => write(() => access.ensureProject(context, name)),
    createKey: (key) => write(() => access.createKey(context, key)),
    listKeys: async () => access.listKeys(context),
    deleteKey: (keyId) => write(() => access.deleteKey(context, keyId)),
    findKey: async (keyId) => access.findKey(context, keyId),
    createJoinToken: (token) => write(() => access.createJoinToken(context, token)),
    listWorkers: async () => access.listWorkers(context),
    openSession: (hello) => write(() => access.openSession(context, hello)),
    closeSession: (workerId, sessionId, lastBeatAtMs) =>
      write(() => access.closeSession(context, workerId, sessionId, lastBeatAtMs)),
    recordBeat: (workerId, sessionId, atMs) => write(() => access.recordBeat(context, workerId, sessionId, atMs)),

    createFunctionVersion: (version, limits) => write(() => functions.createFunctionVersion(context, version, limits)),
    listFunctions: async (projectId) => functions.listFunctions(context, projectId),
    readFunction: async (projectId, idOrName) => functions.readFunction(context, projectId, idOrName),
    addBlob: (projectId, blob, limits) => write(() => functions.addBlob(context, projectId, blob, limits)),

    createExecutions: (list, limits) => write(() => executions.createExecutions(context, list, limits)),
    readExecution: async (projectId, executionId) => executions.readExecution(context, projectId, executionId),
    listExecutions: async (projectId, query) => executions.listExecutions(context, projectId, query),
    requestCancel: (projectId, executionId) => write(() => executions.requestCancel(context, projectId, executionId)),
    expireQueue: (limit) => write(() => executions.expireQueue(context, limit)),

    loadLive: async () => attempts.loadLive(context),
    assign: (attempt, worker) => write(() => attempts.assign(context, attempt, worker)),
    recordAccepted: (attempt, sessionId, sandbox) =>
      write(() => attempts.recordAccepted(context, attempt, sessionId, sandbox)),
    recordRefused: (attempt, sessionId) => write(() => attempts.recordRefused(context, attempt, sessionId)),
    recordStarted: (attempt, sessionId, agoMs) =>
      write(() => attempts.recordStarted(context, attempt, sessionId, agoMs)),
    recordOutput: (attempt, sessionId, growth) =>
      write(() => attempts.recordOutput(context, attempt, sessionId, growth)),
    recordEnd: (attempt, sessionId, end) => write(() => attempts.recordEnd(context, attempt, sessionId, end)),
    compareEnd: async (attemptId, workerId, signature) => attempts.compareEnd(context, attemptId, workerId, signature),
    recordLost: (attempt, workerId, beat) => write(() => attempts.recordLost(context, attempt, workerId, beat)),
    endByControl: (execution, why, beat) => write(() => attempts.endByControl(context, execution, why, beat)),
    readInline: async (attempt, stream, offset) => attempts.readInline(context, attempt, stream, offset),
    close: () => db.close(),
  };
}
