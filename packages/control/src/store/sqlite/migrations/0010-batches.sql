-- What was made by requests with an idempotency key, for as long as the key holds; the scope is a function, or empty for batches.
CREATE TABLE idempotency_keys (
  project_id TEXT NOT NULL REFERENCES projects,
  scope TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  input_digest TEXT NOT NULL,
  made_id TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, scope, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);
INSERT INTO idempotency_keys
  SELECT project_id, function_id, idempotency_key, input_digest, execution_id, created_at + 86400000
  FROM executions WHERE idempotency_key IS NOT NULL;
DROP INDEX executions_by_idempotency_key;
ALTER TABLE executions DROP COLUMN idempotency_key;

CREATE TABLE batches (
  project_id TEXT NOT NULL REFERENCES projects,
  batch_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, batch_id)
) STRICT, WITHOUT ROWID;
ALTER TABLE executions ADD COLUMN batch_id TEXT;
-- Its place in the request, from 0.
ALTER TABLE executions ADD COLUMN batch_index INTEGER;
CREATE INDEX executions_by_batch ON executions (project_id, batch_id, execution_id) WHERE batch_id IS NOT NULL;
