-- An attempt whose worker came back has not ended any more: what it wrote is counted when it ends again.
CREATE TRIGGER attempts_output_unkept AFTER UPDATE OF ended_at ON attempts
  WHEN NEW.ended_at IS NULL AND OLD.ended_at IS NOT NULL
  AND OLD.stdout_bytes + OLD.stderr_bytes + OLD.result_bytes + OLD.artifacts_bytes > 0
BEGIN
  UPDATE projects SET output_bytes = output_bytes - (OLD.stdout_bytes + OLD.stderr_bytes + OLD.result_bytes + OLD.artifacts_bytes)
  WHERE project_id = OLD.project_id;
END;
UPDATE projects SET output_bytes = (
  SELECT coalesce(sum(stdout_bytes + stderr_bytes + result_bytes + artifacts_bytes), 0) FROM attempts a
  WHERE a.project_id = projects.project_id AND a.ended_at IS NOT NULL
);
