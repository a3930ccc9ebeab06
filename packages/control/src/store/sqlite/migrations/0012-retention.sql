-- When an execution's input, output and attempts were removed; what is left of it answers for ever.
ALTER TABLE executions ADD COLUMN expired_at INTEGER;
CREATE INDEX executions_by_end ON executions (project_id, ended_at) WHERE ended_at IS NOT NULL AND expired_at IS NULL;

-- What ended attempts of the project have written, kept up to date by triggers: counting it would read every attempt.
ALTER TABLE projects ADD COLUMN output_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE projects SET output_bytes = (
  SELECT coalesce(sum(stdout_bytes + stderr_bytes + result_bytes + artifacts_bytes), 0) FROM attempts a
  WHERE a.project_id = projects.project_id AND a.ended_at IS NOT NULL
);
CREATE TRIGGER attempts_output_kept AFTER UPDATE OF ended_at ON attempts
  WHEN NEW.ended_at IS NOT NULL AND OLD.ended_at IS NULL
  AND NEW.stdout_bytes + NEW.stderr_bytes + NEW.result_bytes + NEW.artifacts_bytes > 0
BEGIN
  UPDATE projects SET output_bytes = output_bytes + NEW.stdout_bytes + NEW.stderr_bytes + NEW.result_bytes + NEW.artifacts_bytes
  WHERE project_id = NEW.project_id;
END;
CREATE TRIGGER attempts_output_removed AFTER DELETE ON attempts
  WHEN OLD.ended_at IS NOT NULL AND OLD.stdout_bytes + OLD.stderr_bytes + OLD.result_bytes + OLD.artifacts_bytes > 0
BEGIN
  UPDATE projects SET output_bytes = output_bytes - (OLD.stdout_bytes + OLD.stderr_bytes + OLD.result_bytes + OLD.artifacts_bytes)
  WHERE project_id = OLD.project_id;
END;

-- Attempts that are removed, and whose files may be there still.
CREATE TABLE removed_outputs (
  attempt_id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
