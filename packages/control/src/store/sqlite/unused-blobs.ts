import type { Context } from './context.ts';

/** Takes from projects their right to blobs that no version and no execution of theirs needs, and that they got so long ago. */
export function forgetUnusedBlobs({ db, now }: Context, olderThanMs: number): void {
  db.run(
    `DELETE FROM blobs WHERE created_at < ?
       AND NOT EXISTS (SELECT 1 FROM function_versions v
         WHERE v.project_id = blobs.project_id AND (v.code_digest = blobs.digest OR v.image_digest = blobs.digest))
       AND NOT EXISTS (SELECT 1 FROM execution_blobs e
         WHERE e.project_id = blobs.project_id AND e.digest = blobs.digest)`,
    now() - olderThanMs,
  );
}

export function isBlobNeeded({ db }: Context, digest: string): boolean {
  return (
    db.get('SELECT 1 FROM blobs WHERE digest = ?', digest) !== undefined ||
    db.get('SELECT 1 FROM function_versions WHERE image_digest = ? OR code_digest = ?', digest, digest) !== undefined
  );
}
