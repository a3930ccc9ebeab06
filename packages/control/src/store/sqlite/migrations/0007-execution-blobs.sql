-- The blobs that executions name as input, so that it is known what needs one.
CREATE TABLE execution_blobs (
  project_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  execution_id TEXT NOT NULL,
  PRIMARY KEY (project_id, digest, execution_id),
  FOREIGN KEY (project_id, execution_id) REFERENCES executions
) STRICT, WITHOUT ROWID;
INSERT INTO execution_blobs
  SELECT project_id, stdin_digest, execution_id FROM executions WHERE stdin_digest IS NOT NULL;
INSERT OR IGNORE INTO execution_blobs
  SELECT e.project_id, file.value ->> 'digest', e.execution_id
  FROM executions e, json_each(e.files) file
  WHERE e.files IS NOT NULL AND file.value ->> 'digest' IS NOT NULL;
DROP INDEX executions_by_stdin;
