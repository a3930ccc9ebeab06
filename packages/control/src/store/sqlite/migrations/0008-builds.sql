-- A build is an execution of a hidden function, which has a version for each.
ALTER TABLE functions ADD COLUMN is_build INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN artifacts_limit_bytes INTEGER NOT NULL DEFAULT 67108864;

-- What builds made, a tar archive each, by a digest of all that went into it.
CREATE TABLE layers (
  project_id TEXT NOT NULL REFERENCES projects,
  layer_key TEXT NOT NULL,
  digest TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  used_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, layer_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX layers_by_digest ON layers (digest);
CREATE INDEX layers_by_use ON layers (used_at);
