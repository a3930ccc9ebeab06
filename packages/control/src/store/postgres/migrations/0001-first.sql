-- The schema, as SQLite has it after its migrations. Text compares bytewise, as there. What counts is counted by the verbs (`verbs/counters.ts`).
-- Times are milliseconds since the Unix epoch, by the clock of the server that asked. Every record of a user carries its project, and its primary key
-- begins with it.

CREATE TABLE projects (
  project_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  name TEXT COLLATE "C" NOT NULL UNIQUE,
  -- Executions that are open or running; admission reads it instead of counting.
  live_executions BIGINT NOT NULL DEFAULT 0,
  -- Executions that no worker has accepted.
  queued_executions BIGINT NOT NULL DEFAULT 0,
  -- What ended attempts of the project have written.
  output_bytes BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE keys (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  key_id TEXT COLLATE "C" NOT NULL,
  role TEXT COLLATE "C" NOT NULL CHECK (role IN ('operator', 'developer')),
  secret_hash BYTEA NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, key_id)
);
CREATE UNIQUE INDEX keys_by_id ON keys (key_id);

CREATE TABLE owners (
  owner_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  name TEXT COLLATE "C" NOT NULL UNIQUE,
  created_at BIGINT NOT NULL
);

CREATE TABLE join_tokens (
  token_hash BYTEA NOT NULL PRIMARY KEY,
  owner_id TEXT COLLATE "C" NOT NULL REFERENCES owners,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  used_by TEXT COLLATE "C"
);

CREATE TABLE workers (
  worker_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  owner_id TEXT COLLATE "C" NOT NULL REFERENCES owners,
  trust_class TEXT COLLATE "C" NOT NULL,
  public_key TEXT COLLATE "C" NOT NULL UNIQUE,
  name TEXT COLLATE "C" NOT NULL,
  driver TEXT COLLATE "C" NOT NULL,
  isolation TEXT COLLATE "C" NOT NULL,
  cpus DOUBLE PRECISION NOT NULL,
  memory_mib BIGINT NOT NULL,
  disk_mib BIGINT NOT NULL,
  sandbox_overhead_mib BIGINT NOT NULL,
  -- Whether the worker lets functions have a network.
  egress BIGINT NOT NULL DEFAULT 0,
  daemon_version TEXT COLLATE "C" NOT NULL,
  platform TEXT COLLATE "C" NOT NULL,
  -- The newest session; every write about the worker's attempts is guarded by it.
  session_id TEXT COLLATE "C",
  joined_at BIGINT NOT NULL,
  connected_at BIGINT,
  last_beat_at BIGINT,
  -- Since when the operator gives it nothing more; null where it takes work.
  drained_at BIGINT,
  -- How many attempts it may have at once where trust is earned.
  allowance BIGINT NOT NULL DEFAULT 2
) WITH (fillfactor = 50);

CREATE TABLE blobs (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  digest TEXT COLLATE "C" NOT NULL,
  bytes BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, digest)
);
CREATE INDEX blobs_by_digest ON blobs (digest);
CREATE INDEX blobs_by_age ON blobs (created_at);

-- What builds made, a tar archive each, by a digest of all that went into it.
CREATE TABLE layers (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  layer_key TEXT COLLATE "C" NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  bytes BIGINT NOT NULL,
  used_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, layer_key)
);
CREATE INDEX layers_by_digest ON layers (digest);
CREATE INDEX layers_by_use ON layers (used_at);

CREATE TABLE functions (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  function_id TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  newest_version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  -- A build is an execution of a hidden function, which has a version for each.
  is_build BIGINT NOT NULL DEFAULT 0,
  -- As its newest version says; null for any number.
  max_concurrent BIGINT,
  queued_executions BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (project_id, function_id),
  UNIQUE (project_id, name)
) WITH (fillfactor = 50);

CREATE TABLE function_versions (
  project_id TEXT COLLATE "C" NOT NULL,
  function_id TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  -- Empty for an image.
  runtime TEXT COLLATE "C" NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  handler TEXT COLLATE "C",
  process TEXT COLLATE "C" NOT NULL,
  code_digest TEXT COLLATE "C" NOT NULL,
  code_bytes BIGINT NOT NULL,
  image_digest TEXT COLLATE "C" NOT NULL,
  image_bytes BIGINT NOT NULL,
  memory_mib BIGINT NOT NULL,
  cpus BIGINT NOT NULL,
  timeout_ms BIGINT NOT NULL,
  output_limit_bytes BIGINT NOT NULL,
  -- The weakest isolation class that it may run in.
  isolation TEXT COLLATE "C" NOT NULL CHECK (isolation IN ('microvm', 'gvisor', 'emulated', 'container')),
  env TEXT COLLATE "C" NOT NULL,
  retries TEXT COLLATE "C",
  -- What it may reach: JSON, null for nothing. Whether running it twice does no harm.
  network TEXT COLLATE "C",
  idempotent BIGINT NOT NULL DEFAULT 0,
  deployed_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, function_id, version),
  FOREIGN KEY (project_id, function_id) REFERENCES functions
);
CREATE INDEX function_versions_by_code ON function_versions (code_digest);
CREATE INDEX function_versions_by_image ON function_versions (image_digest);

CREATE TABLE batches (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  batch_id TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, batch_id)
);

CREATE TABLE executions (
  project_id TEXT COLLATE "C" NOT NULL,
  execution_id TEXT COLLATE "C" NOT NULL,
  function_id TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  state TEXT COLLATE "C" NOT NULL CHECK (state IN ('open', 'running', 'success', 'failure', 'timeout', 'cancelled')),
  phase TEXT COLLATE "C" CHECK ((phase IS NOT NULL) = (state = 'running')),
  reason TEXT COLLATE "C" CHECK ((reason IS NOT NULL) = (state IN ('failure', 'timeout', 'cancelled'))),
  message TEXT COLLATE "C",
  exit_code BIGINT,
  signal BIGINT,
  args TEXT COLLATE "C" NOT NULL,
  env TEXT COLLATE "C" NOT NULL,
  stdin_inline BYTEA,
  stdin_digest TEXT COLLATE "C",
  stdin_bytes BIGINT,
  -- Input files, a JSON array of their names with their bytes in base64, or with the digest and length of a blob.
  files TEXT COLLATE "C",
  memory_mib BIGINT NOT NULL,
  cpus BIGINT NOT NULL,
  timeout_ms BIGINT NOT NULL,
  output_limit_bytes BIGINT NOT NULL,
  artifacts_limit_bytes BIGINT NOT NULL,
  retries TEXT COLLATE "C",
  retries_used BIGINT NOT NULL DEFAULT 0,
  redeliveries_used BIGINT NOT NULL DEFAULT 0,
  priority BIGINT NOT NULL,
  concurrency_key TEXT COLLATE "C",
  concurrency_limit BIGINT,
  queue_ttl_ms BIGINT NOT NULL,
  input_digest TEXT COLLATE "C" NOT NULL,
  batch_id TEXT COLLATE "C",
  -- Its place in the request, from 0.
  batch_index BIGINT,
  created_at BIGINT NOT NULL,
  queue_expires_at BIGINT NOT NULL,
  accepted_at BIGINT,
  started_at BIGINT,
  ended_at BIGINT,
  deadline_at BIGINT,
  cancel_requested_at BIGINT,
  deciding_attempt TEXT COLLATE "C",
  result TEXT COLLATE "C",
  error TEXT COLLATE "C",
  -- When its input, output and attempts were removed; what is left of it answers for ever.
  expired_at BIGINT,
  PRIMARY KEY (project_id, execution_id),
  FOREIGN KEY (project_id, function_id, version) REFERENCES function_versions
) WITH (fillfactor = 70);
CREATE INDEX executions_by_function ON executions (project_id, function_id, execution_id);
CREATE INDEX executions_by_batch ON executions (project_id, batch_id, execution_id) WHERE batch_id IS NOT NULL;
CREATE INDEX executions_by_queue_expiry ON executions (queue_expires_at) WHERE state = 'open' OR phase = 'requeued';
CREATE INDEX executions_by_end ON executions (project_id, ended_at) WHERE ended_at IS NOT NULL AND expired_at IS NULL;

-- The blobs that executions name as input, so that it is known what needs one.
CREATE TABLE execution_blobs (
  project_id TEXT COLLATE "C" NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  execution_id TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (project_id, digest, execution_id),
  FOREIGN KEY (project_id, execution_id) REFERENCES executions
);

CREATE TABLE attempts (
  project_id TEXT COLLATE "C" NOT NULL,
  execution_id TEXT COLLATE "C" NOT NULL,
  number BIGINT NOT NULL,
  attempt_id TEXT COLLATE "C" NOT NULL UNIQUE,
  kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('primary', 'verify', 'hedge')),
  cause TEXT COLLATE "C" NOT NULL DEFAULT 'first' CHECK (cause IN ('first', 'redelivery', 'retry')),
  state TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'assigned', 'accepted', 'started', 'ended') AND (state = 'ended') = (ended_at IS NOT NULL)),
  worker_id TEXT COLLATE "C" REFERENCES workers,
  session_id TEXT COLLATE "C",
  owner_id TEXT COLLATE "C" REFERENCES owners,
  trust_class TEXT COLLATE "C",
  driver TEXT COLLATE "C",
  isolation TEXT COLLATE "C",
  created_at BIGINT NOT NULL,
  -- When the wait before a retry is over.
  not_before BIGINT,
  assigned_at BIGINT,
  accepted_at BIGINT,
  started_at BIGINT,
  ended_at BIGINT,
  last_beat_at BIGINT,
  agent_age_ms BIGINT,
  outcome TEXT COLLATE "C",
  -- Committed lengths; the bytes are in output_chunks.
  stdout_bytes BIGINT NOT NULL DEFAULT 0,
  stderr_bytes BIGINT NOT NULL DEFAULT 0,
  result_bytes BIGINT NOT NULL DEFAULT 0,
  artifacts_bytes BIGINT NOT NULL DEFAULT 0,
  stdout_truncated BIGINT NOT NULL DEFAULT 0,
  stderr_truncated BIGINT NOT NULL DEFAULT 0,
  stdout_digest TEXT COLLATE "C",
  stderr_digest TEXT COLLATE "C",
  result_digest TEXT COLLATE "C",
  artifacts_digest TEXT COLLATE "C",
  artifact_files BIGINT NOT NULL DEFAULT 0,
  usage_host TEXT COLLATE "C",
  usage_guest TEXT COLLATE "C",
  usage_control TEXT COLLATE "C",
  usage_egress TEXT COLLATE "C",
  worker_signature TEXT COLLATE "C",
  -- What a worker reported of an attempt that had ended without it, as JSON: evidence.
  late_end TEXT COLLATE "C",
  PRIMARY KEY (project_id, execution_id, number),
  FOREIGN KEY (project_id, execution_id) REFERENCES executions
) WITH (fillfactor = 60);
-- By ended_at and not by state, so that a change of state that is not the end touches neither index.
CREATE UNIQUE INDEX attempts_one_live_primary ON attempts (project_id, execution_id)
  WHERE kind = 'primary' AND ended_at IS NULL;
CREATE INDEX attempts_live_by_worker ON attempts (worker_id) WHERE ended_at IS NULL;

-- All output: the bytes of each stream from an offset on.
CREATE TABLE output_chunks (
  project_id TEXT COLLATE "C" NOT NULL,
  attempt_id TEXT COLLATE "C" NOT NULL,
  stream TEXT COLLATE "C" NOT NULL CHECK (stream IN ('stdout', 'stderr', 'result', 'artifacts')),
  "offset" BIGINT NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (project_id, attempt_id, stream, "offset")
);
-- Compressing costs more than it saves where all of it is written once and read once.
ALTER TABLE output_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Attempts that are removed, and whose files may be there still.
CREATE TABLE removed_outputs (
  attempt_id TEXT COLLATE "C" NOT NULL PRIMARY KEY
);

-- What was made by requests with an idempotency key, for as long as the key holds; the scope is a function, or empty for batches.
CREATE TABLE idempotency_keys (
  project_id TEXT COLLATE "C" NOT NULL REFERENCES projects,
  scope TEXT COLLATE "C" NOT NULL,
  idempotency_key TEXT COLLATE "C" NOT NULL,
  input_digest TEXT COLLATE "C" NOT NULL,
  made_id TEXT COLLATE "C" NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (project_id, scope, idempotency_key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

-- Which history this is: one row. The marker is also in a file of the server's data directory, and goes on with it.
CREATE TABLE incarnation (
  one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  incarnation TEXT COLLATE "C" NOT NULL,
  marker TEXT COLLATE "C" NOT NULL,
  -- What the file has until the newer one is written there.
  earlier_marker TEXT COLLATE "C"
);

-- The last group of writes that each open store has committed, so that one whose answer was lost can be asked for.
CREATE TABLE writers (
  writer_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  last_group BIGINT NOT NULL,
  at BIGINT NOT NULL
) WITH (fillfactor = 50);
