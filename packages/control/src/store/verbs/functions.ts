import { type BlobRef, type FunctionRecord, isIdOf, NO_NETWORK } from '@cocore/protocol';
import { admit, type Limits } from '../../admission.ts';
import type { NewFunctionVersion } from '../store.ts';
import { countHeld } from './caps.ts';
import { type Context, newId } from './context.ts';
import type { Verb } from './statements.ts';
import { networkText } from './network.ts';
import { functionRecord, type FunctionRow, optionalText, SELECT_FUNCTION } from './records.ts';

const FIND_BY_ID = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.function_id = ?`;
const FIND_BY_NAME = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.name = ?`;

/** As a user names it: a build is none. */
export function* findFunction({ db }: Context, projectId: string, idOrName: string): Verb<FunctionRow | undefined> {
  const find = isIdOf('function', idOrName) ? FIND_BY_ID : FIND_BY_NAME;
  const row = yield* db.get<FunctionRow>(find, projectId, idOrName);
  return row?.is_build === 1 ? undefined : row;
}

const LIST = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.is_build = 0 ORDER BY f.name`;

export function* listFunctions({ db }: Context, projectId: string): Verb<FunctionRecord[]> {
  return (yield* db.all<FunctionRow>(LIST, projectId)).map(functionRecord);
}

export function* readFunction(context: Context, projectId: string, idOrName: string): Verb<FunctionRecord | null> {
  const row = yield* findFunction(context, projectId, idOrName);
  return row === undefined ? null : functionRecord(row);
}

export function* hasBlob({ db }: Context, projectId: string, digest: string): Verb<boolean> {
  return (yield* db.get('SELECT 1 FROM blobs WHERE project_id = ? AND digest = ?', projectId, digest)) !== undefined;
}

const RENEW_BLOB = 'UPDATE blobs SET created_at = ? WHERE project_id = ? AND digest = ?';

/** Also counts its age anew. */
export function* addBlob(context: Context, projectId: string, blob: BlobRef, limits: Limits): Verb<void> {
  const { db } = context;
  if (yield* hasBlob(context, projectId, blob.digest)) {
    yield* db.send(RENEW_BLOB, context.now(), projectId, blob.digest);
    return;
  }
  const held = yield* db.get<{ bytes: number }>(
    'SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) AS bytes FROM blobs WHERE project_id = ?',
    projectId,
  );
  admit({ blobBytes: held!.bytes + blob.bytes }, limits);
  yield* db.send(
    'INSERT INTO blobs (project_id, digest, bytes, created_at) VALUES (?, ?, ?, ?)',
    projectId,
    blob.digest,
    blob.bytes,
    context.now(),
  );
}

export function* createFunctionVersion(
  context: Context,
  version: NewFunctionVersion,
  limits: Limits,
): Verb<FunctionRecord> {
  return functionRecord(yield* insertVersion(context, version, limits, false));
}

/** The first version of a function of this name, or its next. */
export function* insertVersion(
  context: Context,
  version: NewFunctionVersion,
  limits: Limits,
  isBuild: boolean,
): Verb<FunctionRow> {
  const { db } = context;
  const { projectId, name } = version;
  const nowMs = context.now();
  const earlier = yield* db.get<FunctionRow>(FIND_BY_NAME, projectId, name);
  const functionId = earlier?.function_id ?? newId(context, 'function');
  const number = (earlier?.version ?? 0) + 1;
  if (earlier === undefined) {
    const held = yield* db.get<{ count: number }>(
      'SELECT count(*) AS count FROM functions WHERE project_id = ? AND is_build = 0',
      projectId,
    );
    if (!isBuild) admit({ functions: held!.count + 1 }, limits);
    yield* db.send(
      `INSERT INTO functions (project_id, function_id, name, newest_version, created_at, is_build, max_concurrent)
       VALUES (?, ?, ?, ?, ?, ?, ?)`,
      ...[projectId, functionId, name, number, nowMs, isBuild ? 1 : 0, version.maxConcurrent ?? null],
    );
  } else {
    yield* db.send(
      'UPDATE functions SET newest_version = ?, max_concurrent = ? WHERE project_id = ? AND function_id = ?',
      number,
      version.maxConcurrent ?? null,
      projectId,
      functionId,
    );
    const isLimited = (version.maxConcurrent ?? null) !== null;
    if (isLimited && earlier.max_concurrent === null) yield* countHeld(context, projectId, functionId);
  }
  yield* addBlob(context, projectId, version.code, limits);
  yield* db.send(
    `INSERT INTO function_versions (project_id, function_id, version, runtime, source, handler, process, code_digest, code_bytes, image_digest,
       image_bytes, memory_mib, cpus, timeout_ms, output_limit_bytes, isolation, env, retries, network, idempotent, deployed_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    projectId,
    functionId,
    number,
    version.runtime ?? '',
    JSON.stringify(version.source),
    version.handler,
    JSON.stringify(version.process),
    version.code.digest,
    version.code.bytes,
    version.image.digest,
    version.image.bytes,
    version.memoryMiB,
    version.cpus,
    version.timeoutMs,
    version.outputLimitBytes,
    version.isolation,
    JSON.stringify(version.env),
    optionalText(version.retries ?? null),
    networkText(version.network ?? NO_NETWORK),
    version.idempotent === true ? 1 : 0,
    nowMs,
  );
  return (yield* db.get<FunctionRow>(FIND_BY_ID, projectId, functionId))!;
}
