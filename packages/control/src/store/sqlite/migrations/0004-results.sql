-- What a function leaves when its process has ended: its result, kept with the execution as JSON text, and its artifacts, whose
-- bytes are kept as output is.
ALTER TABLE executions ADD COLUMN result TEXT;
ALTER TABLE executions ADD COLUMN error TEXT;

ALTER TABLE attempts ADD COLUMN result_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN artifacts_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN artifacts_digest TEXT;
ALTER TABLE attempts ADD COLUMN artifact_files INTEGER NOT NULL DEFAULT 0;

CREATE TABLE new_output_chunks (
  project_id TEXT NOT NULL,
  attempt_id TEXT NOT NULL,
  stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr', 'result', 'artifacts')),
  offset INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (project_id, attempt_id, stream, offset)
) STRICT, WITHOUT ROWID;
INSERT INTO new_output_chunks SELECT * FROM output_chunks;
DROP TABLE output_chunks;
ALTER TABLE new_output_chunks RENAME TO output_chunks;
