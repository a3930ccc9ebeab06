import { type BlobRef, type FunctionRecord, isIdOf } from '@cocore/protocol';
import { admit, type Limits } from '../../admission.ts';
import type { NewFunctionVersion } from '../store.ts';
import { type Context, newId } from './context.ts';
import { functionRecord, type FunctionRow, optionalText, SELECT_FUNCTION } from './records.ts';

const FIND_BY_ID = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.function_id = ?`;
const FIND_BY_NAME = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.name = ?`;

/** As a user names it: a build is none. */
export function findFunction({ db }: Context, projectId: string, idOrName: string): FunctionRow | undefined {
  const find = isIdOf('function', idOrName) ? FIND_BY_ID : FIND_BY_NAME;
  const row = db.get<FunctionRow>(find, projectId, idOrName);
  return row?.is_build === 1 ? undefined : row;
}

export function listFunctions({ db }: Context, projectId: string): FunctionRecord[] {
  return db
    .all<FunctionRow>(`${SELECT_FUNCTION} WHERE f.project_id = ? AND f.is_build = 0 ORDER BY f.name`, projectId)
    .map(functionRecord);
}

export function readFunction(context: Context, projectId: string, idOrName: string): FunctionRecord | null {
  const row = findFunction(context, projectId, idOrName);
  return row === undefined ? null : functionRecord(row);
}

export function hasBlob({ db }: Context, projectId: string, digest: string): boolean {
  return db.get('SELECT 1 FROM blobs WHERE project_id = ? AND digest = ?', projectId, digest) !== undefined;
}

const RENEW_BLOB = 'UPDATE blobs SET created_at = ? WHERE project_id = ? AND digest = ?';

/** Also counts its age anew. */
export function addBlob(context: Context, projectId: string, blob: BlobRef, limits: Limits): void {
  const { db } = context;
  if (hasBlob(context, projectId, blob.digest)) {
    db.run(RENEW_BLOB, context.now(), projectId, blob.digest);
    return;
  }
  const held = db.get<{ bytes: number }>(
    'SELECT coalesce(sum(bytes), 0) AS bytes FROM blobs WHERE project_id = ?',
    projectId,
  );
  admit({ blobBytes: held!.bytes + blob.bytes }, limits);
  db.run(
    'INSERT INTO blobs (project_id, digest, bytes, created_at) VALUES (?, ?, ?, ?)',
    projectId,
    blob.digest,
    blob.bytes,
    context.now(),
  );
}

export function createFunctionVersion(context: Context, version: NewFunctionVersion, limits: Limits): FunctionRecord {
  return functionRecord(insertVersion(context, version, limits, false));
}

/** The first version of a function of this name, or its next. */
export function insertVersion(
  context: Context,
  version: NewFunctionVersion,
  limits: Limits,
  isBuild: boolean,
): FunctionRow {
  const { db } = context;
  const { projectId, name } = version;
  const nowMs = context.now();
  const earlier = db.get<FunctionRow>(FIND_BY_NAME, projectId, name);
  const functionId = earlier?.function_id ?? newId(context, 'function');
  const number = (earlier?.version ?? 0) + 1;
  if (earlier === undefined) {
    const held = db.get<{ count: number }>(
      'SELECT count(*) AS count FROM functions WHERE project_id = ? AND is_build = 0',
      projectId,
    );
    if (!isBuild) admit({ functions: held!.count + 1 }, limits);
    db.run(
      'INSERT INTO functions (project_id, function_id, name, newest_version, created_at, is_build) VALUES (?, ?, ?, ?, ?, ?)',
      ...[projectId, functionId, name, number, nowMs, isBuild ? 1 : 0],
    );
  } else {
    db.run(
      'UPDATE functions SET newest_version = ? WHERE project_id = ? AND function_id = ?',
      number,
      projectId,
      functionId,
    );
  }
  addBlob(context, projectId, version.code, limits);
  db.run(
    `INSERT INTO function_versions (project_id, function_id, version, runtime, source, handler, process, code_digest, code_bytes, image_digest,
       image_bytes, memory_mib, cpus, timeout_ms, output_limit_bytes, isolation, env, retries, deployed_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
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
    nowMs,
  );
  return db.get<FunctionRow>(FIND_BY_ID, projectId, functionId)!;
}
