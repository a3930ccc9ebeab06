-- How executions wait: which goes first, how many may have a worker at once, and for how long.
ALTER TABLE executions ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN concurrency_key TEXT;
ALTER TABLE executions ADD COLUMN concurrency_limit INTEGER;
ALTER TABLE executions ADD COLUMN queue_ttl_ms INTEGER NOT NULL DEFAULT 86400000;
-- As its newest version says; null for any number.
ALTER TABLE functions ADD COLUMN max_concurrent INTEGER;

-- Executions that no worker has accepted, kept up to date by triggers: counting them would read every one.
ALTER TABLE projects ADD COLUMN queued_executions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE functions ADD COLUMN queued_executions INTEGER NOT NULL DEFAULT 0;
UPDATE projects SET queued_executions = (
  SELECT count(*) FROM executions e WHERE e.project_id = projects.project_id AND (e.state = 'open' OR e.phase = 'requeued')
);
UPDATE functions SET queued_executions = (
  SELECT count(*) FROM executions e
  WHERE e.project_id = functions.project_id AND e.function_id = functions.function_id AND (e.state = 'open' OR e.phase = 'requeued')
);
CREATE TRIGGER executions_queued AFTER INSERT ON executions WHEN NEW.state = 'open'
BEGIN
  UPDATE projects SET queued_executions = queued_executions + 1 WHERE project_id = NEW.project_id;
  UPDATE functions SET queued_executions = queued_executions + 1
  WHERE project_id = NEW.project_id AND function_id = NEW.function_id;
END;
CREATE TRIGGER executions_requeued AFTER UPDATE OF state, phase ON executions
  WHEN (OLD.state = 'open' OR OLD.phase IS 'requeued') <> (NEW.state = 'open' OR NEW.phase IS 'requeued')
BEGIN
  UPDATE projects SET queued_executions = queued_executions + iif(NEW.phase IS 'requeued', 1, -1)
  WHERE project_id = NEW.project_id;
  UPDATE functions SET queued_executions = queued_executions + iif(NEW.phase IS 'requeued', 1, -1)
  WHERE project_id = NEW.project_id AND function_id = NEW.function_id;
END;
