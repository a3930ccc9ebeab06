-- The servers that use this database, each for one life of its process. A beat that does not change any more is of one that is gone.
CREATE TABLE servers (
  server_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  -- Of its data directory, which one process has at a time.
  directory_id TEXT COLLATE "C" NOT NULL,
  -- Where it keeps blobs: all must name the same place.
  blobs TEXT COLLATE "C" NOT NULL,
  beat BIGINT NOT NULL,
  started_at BIGINT NOT NULL
) WITH (fillfactor = 50);

-- As in `incarnation`, for each data directory, and which incarnation that was of when it was written last.
CREATE TABLE markers (
  directory_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  incarnation TEXT COLLATE "C" NOT NULL,
  marker TEXT COLLATE "C" NOT NULL,
  earlier_marker TEXT COLLATE "C"
) WITH (fillfactor = 50);

-- What workers know all servers of this database by.
ALTER TABLE incarnation ADD COLUMN server_id TEXT COLLATE "C";
-- Who has, or had last, the worker's session, and sees to what it has.
ALTER TABLE workers ADD COLUMN server_id TEXT COLLATE "C";
-- The hash of what it fetches blobs with in this session, at any server.
ALTER TABLE workers ADD COLUMN blob_token TEXT COLLATE "C";
CREATE INDEX workers_by_blob_token ON workers (blob_token) WHERE blob_token IS NOT NULL;

-- What an attempt counts against while it has a worker; null where nothing limits it.
ALTER TABLE attempts ADD COLUMN capped_function TEXT COLLATE "C";
ALTER TABLE attempts ADD COLUMN capped_key TEXT COLLATE "C";
CREATE INDEX attempts_by_capped_function ON attempts (project_id, capped_function)
  WHERE capped_function IS NOT NULL AND ended_at IS NULL;
CREATE INDEX attempts_by_capped_key ON attempts (project_id, capped_key)
  WHERE capped_key IS NOT NULL AND ended_at IS NULL;
-- Those that an older server gave to a worker.
UPDATE attempts a SET capped_key = e.concurrency_key, capped_function = CASE WHEN f.max_concurrent IS NOT NULL THEN e.function_id END
  FROM executions e JOIN functions f ON f.project_id = e.project_id AND f.function_id = e.function_id
  WHERE a.project_id = e.project_id AND a.execution_id = e.execution_id AND a.ended_at IS NULL AND a.worker_id IS NOT NULL
    AND (e.concurrency_key IS NOT NULL OR f.max_concurrent IS NOT NULL);

-- Queued attempts of all servers are looked through in the order of their ids.
CREATE INDEX attempts_live_by_worker_and_id ON attempts (worker_id, attempt_id) WHERE ended_at IS NULL;
DROP INDEX attempts_live_by_worker;
