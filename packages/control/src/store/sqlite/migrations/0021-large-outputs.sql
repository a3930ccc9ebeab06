-- Ended attempts with more output than the store keeps by itself, so that it is known what an archive lacks and what it has.
CREATE TABLE large_outputs (
  attempt_id TEXT NOT NULL PRIMARY KEY,
  project_id TEXT NOT NULL,
  execution_id TEXT NOT NULL,
  -- 1 once objects of it may be in the archive.
  in_archive INTEGER NOT NULL DEFAULT 0,
  -- Since when all of it is there.
  archived_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX large_outputs_to_archive ON large_outputs (attempt_id) WHERE archived_at IS NULL;
INSERT INTO large_outputs (attempt_id, project_id, execution_id)
SELECT attempt_id, project_id, execution_id FROM attempts
WHERE state = 'ended' AND (stdout_bytes > 16384 OR stderr_bytes > 16384 OR result_bytes > 16384 OR artifacts_bytes > 16384);
ALTER TABLE removed_outputs ADD COLUMN in_archive INTEGER NOT NULL DEFAULT 0;
