import { type BlobRef, type FunctionRecord, isIdOf } from '@cocore/protocol';
import { admit, type Limits } from '../../admission.ts';
import type { NewFunctionVersion } from '../store.ts';
import { type Context, newId } from './context.ts';
import { functionRecord, type FunctionRow, SELECT_FUNCTION } from './records.ts';

const FIND_BY_ID = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.function_id = ?`;
const FIND_BY_NAME = `${SELECT_FUNCTION} WHERE f.project_id = ? AND f.name = ?`;

export function findFunction({ db }: Context, projectId: string, idOrName: string): FunctionRow | undefined {
  return db.get<FunctionRow>(isIdOf('function', idOrName) ? FIND_BY_ID : FIND_BY_NAME, projectId, idOrName);
}

export function listFunctions({ db }: Context, projectId: string): FunctionRecord[] {
  return db
    .all<FunctionRow>(`${SELECT_FUNCTION} WHERE f.project_id = ? ORDER BY f.name`, projectId)
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
  const { db } = context;
  const { projectId, name } = version;
  const nowMs = context.now();
  const earlier = findFunction(context, projectId, name);
  const functionId = earlier?.function_id ?? newId(context, 'function');
  const number = (earlier?.version ?? 0) + 1;
  if (earlier === undefined) {
    const held = db.get<{ count: number }>('SELECT count(*) AS count FROM functions WHERE project_id = ?', projectId);
    admit({ functions: held!.count + 1 }, limits);
    db.run('INSERT INTO functions VALUES (?, ?, ?, ?, ?)', projectId, functionId, name, number, nowMs);
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
       image_bytes, memory_mib, cpus, timeout_ms, output_limit_bytes, isolation, env, deployed_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
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
    nowMs,
  );
  return functionRecord(findFunction(context, projectId, functionId)!);
}
