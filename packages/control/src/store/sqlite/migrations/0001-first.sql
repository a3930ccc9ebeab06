-- Times are milliseconds since the Unix epoch, by the store's clock. Every record of a user carries its project, and
-- its primary key begins with it.

CREATE TABLE projects (
  project_id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  -- Executions that are open or running; admission reads it instead of counting.
  live_executions INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
  project_id TEXT NOT NULL REFERENCES projects,
  key_id TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('operator', 'developer')),
  secret_hash BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, key_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX keys_by_id ON keys (key_id);

CREATE TABLE owners (
  owner_id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
  token_hash BLOB NOT NULL PRIMARY KEY,
  owner_id TEXT NOT NULL REFERENCES owners,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
  worker_id TEXT NOT NULL PRIMARY KEY,
  owner_id TEXT NOT NULL REFERENCES owners,
  trust_class TEXT NOT NULL,
  public_key TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  driver TEXT NOT NULL,
  isolation TEXT NOT NULL,
  cpus REAL NOT NULL,
  memory_mib INTEGER NOT NULL,
  disk_mib INTEGER NOT NULL,
  sandbox_overhead_mib INTEGER NOT NULL,
  daemon_version TEXT NOT NULL,
  platform TEXT NOT NULL,
  -- The newest session; every write about the worker's attempts is guarded by it.
  session_id TEXT,
  joined_at INTEGER NOT NULL,
  connected_at INTEGER,
  last_beat_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  project_id TEXT NOT NULL REFERENCES projects,
  digest TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE functions (
  project_id TEXT NOT NULL REFERENCES projects,
  function_id TEXT NOT NULL,
  name TEXT NOT NULL,
  newest_version INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, function_id),
  UNIQUE (project_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE function_versions (
  project_id TEXT NOT NULL,
  function_id TEXT NOT NULL,
  version INTEGER NOT NULL,
  runtime TEXT NOT NULL,
  file_name TEXT NOT NULL,
  code_digest TEXT NOT NULL,
  code_bytes INTEGER NOT NULL,
  image_digest TEXT NOT NULL,
  image_bytes INTEGER NOT NULL,
  memory_mib INTEGER NOT NULL,
  cpus INTEGER NOT NULL,
  timeout_ms INTEGER NOT NULL,
  output_limit_bytes INTEGER NOT NULL,
  env TEXT NOT NULL,
  deployed_at INTEGER NOT NULL,
  PRIMARY KEY (project_id, function_id, version),
  FOREIGN KEY (project_id, function_id) REFERENCES functions
) STRICT, WITHOUT ROWID;

CREATE TABLE executions (
  project_id TEXT NOT NULL,
  execution_id TEXT NOT NULL,
  function_id TEXT NOT NULL,
  version INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'running', 'success', 'failure', 'timeout', 'cancelled')),
  phase TEXT CHECK ((phase IS NOT NULL) = (state = 'running')),
  reason TEXT CHECK ((reason IS NOT NULL) = (state IN ('failure', 'timeout', 'cancelled'))),
  message TEXT,
  exit_code INTEGER,
  signal INTEGER,
  args TEXT NOT NULL,
  env TEXT NOT NULL,
  stdin_inline BLOB,
  stdin_digest TEXT,
  stdin_bytes INTEGER,
  memory_mib INTEGER NOT NULL,
  cpus INTEGER NOT NULL,
  timeout_ms INTEGER NOT NULL,
  output_limit_bytes INTEGER NOT NULL,
  input_digest TEXT NOT NULL,
  idempotency_key TEXT,
  created_at INTEGER NOT NULL,
  queue_expires_at INTEGER NOT NULL,
  accepted_at INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  deadline_at INTEGER,
  cancel_requested_at INTEGER,
  deciding_attempt TEXT,
  PRIMARY KEY (project_id, execution_id),
  FOREIGN KEY (project_id, function_id, version) REFERENCES function_versions
) STRICT;
CREATE UNIQUE INDEX executions_by_idempotency_key ON executions (project_id, function_id, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_by_function ON executions (project_id, function_id, execution_id);
CREATE INDEX executions_by_queue_expiry ON executions (queue_expires_at) WHERE state = 'open';

CREATE TABLE attempts (
  project_id TEXT NOT NULL,
  execution_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  attempt_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('primary', 'verify', 'hedge')),
  state TEXT NOT NULL CHECK (state IN ('queued', 'assigned', 'accepted', 'started', 'ended') AND (state = 'ended') = (ended_at IS NOT NULL)),
  worker_id TEXT REFERENCES workers,
  session_id TEXT,
  owner_id TEXT REFERENCES owners,
  trust_class TEXT,
  driver TEXT,
  isolation TEXT,
  created_at INTEGER NOT NULL,
  assigned_at INTEGER,
  accepted_at INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  last_beat_at INTEGER,
  agent_age_ms INTEGER,
  outcome TEXT,
  -- Committed lengths; the bytes are in output_chunks and, beyond them, in segment files.
  stdout_bytes INTEGER NOT NULL DEFAULT 0,
  stderr_bytes INTEGER NOT NULL DEFAULT 0,
  stdout_truncated INTEGER NOT NULL DEFAULT 0,
  stderr_truncated INTEGER NOT NULL DEFAULT 0,
  stdout_digest TEXT,
  stderr_digest TEXT,
  result_digest TEXT,
  usage_host TEXT,
  usage_guest TEXT,
  usage_control TEXT,
  worker_signature TEXT,
  PRIMARY KEY (project_id, execution_id, number),
  FOREIGN KEY (project_id, execution_id) REFERENCES executions
) STRICT, WITHOUT ROWID;
-- By ended_at and not by state, so that a change of state that is not the end touches neither index.
CREATE UNIQUE INDEX attempts_one_live_primary ON attempts (project_id, execution_id)
  WHERE kind = 'primary' AND ended_at IS NULL;
CREATE INDEX attempts_live_by_worker ON attempts (worker_id) WHERE ended_at IS NULL;

CREATE TABLE output_chunks (
  project_id TEXT NOT NULL,
  attempt_id TEXT NOT NULL,
  stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
  offset INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (project_id, attempt_id, stream, offset)
) STRICT, WITHOUT ROWID;
