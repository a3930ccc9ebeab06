import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** Of a version `v` of a hidden function. */
const IS_BUILDING = `EXISTS (SELECT 1 FROM executions e WHERE e.project_id = v.project_id AND e.function_id = v.function_id
  AND e.version = v.version AND e.ended_at IS NULL)`;

export function* forgetUnusedBlobs(
  { db, now }: Context,
  { layersMs, blobsMs }: { readonly layersMs: number; readonly blobsMs: number },
): Verb<void> {
  yield* db.send('DELETE FROM layers WHERE used_at < ?', now() - layersMs);
  // A build that has ended needs its code no more.
  yield* db.send(
    `DELETE FROM blobs WHERE created_at < ?
       AND NOT EXISTS (SELECT 1 FROM function_versions v JOIN functions f USING (project_id, function_id)
         WHERE v.project_id = blobs.project_id AND (v.code_digest = blobs.digest OR v.image_digest = blobs.digest)
           AND (f.is_build = 0 OR ${IS_BUILDING}))
       AND NOT EXISTS (SELECT 1 FROM layers l WHERE l.project_id = blobs.project_id AND l.digest = blobs.digest)
       AND NOT EXISTS (SELECT 1 FROM execution_blobs e
         WHERE e.project_id = blobs.project_id AND e.digest = blobs.digest)`,
    now() - blobsMs,
  );
}

export function* isBlobNeeded({ db }: Context, digest: string): Verb<boolean> {
  if ((yield* db.get('SELECT 1 FROM blobs WHERE digest = ?', digest)) !== undefined) return true;
  const named = yield* db.get(
    `SELECT 1 FROM function_versions v JOIN functions f USING (project_id, function_id)
     WHERE (v.image_digest = ? OR v.code_digest = ?) AND (f.is_build = 0 OR ${IS_BUILDING})`,
    digest,
    digest,
  );
  return named !== undefined;
}
