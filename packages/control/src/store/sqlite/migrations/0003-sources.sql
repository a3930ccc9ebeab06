-- A version says how its process is started, and where its code came from, instead of naming a runtime and a file that only the
-- program knows how to start. `runtime` is null for an image.
CREATE TABLE new_function_versions (
  project_id TEXT NOT NULL,
  function_id TEXT NOT NULL,
  version INTEGER NOT NULL,
  runtime TEXT,
  source TEXT NOT NULL,
  handler TEXT,
  process TEXT NOT NULL,
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
  isolation TEXT NOT NULL CHECK (isolation IN ('microvm', 'gvisor', 'emulated', 'container')),
  PRIMARY KEY (project_id, function_id, version),
  FOREIGN KEY (project_id, function_id) REFERENCES functions
) STRICT, WITHOUT ROWID;

INSERT INTO new_function_versions
SELECT project_id, function_id, version, runtime, json_object('kind', 'file', 'name', file_name), NULL,
  json_object(
    'argv', json_array(CASE runtime WHEN 'python' THEN '/usr/bin/python3' ELSE '/bin/bash' END, '/function/' || file_name),
    'env', CASE runtime WHEN 'python' THEN json_object('PYTHONUNBUFFERED', '1') ELSE json_object() END,
    'cwd', '/work',
    'user', json_object('uid', 0, 'gid', 0, 'additionalGids', json_array())
  ),
  code_digest, code_bytes, image_digest, image_bytes, memory_mib, cpus, timeout_ms, output_limit_bytes, env, deployed_at,
  isolation
FROM function_versions;

DROP TABLE function_versions;
ALTER TABLE new_function_versions RENAME TO function_versions;
