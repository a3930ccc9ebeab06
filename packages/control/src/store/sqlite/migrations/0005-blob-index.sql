-- To find out whether anything needs a blob.
CREATE INDEX blobs_by_digest ON blobs (digest);
CREATE INDEX blobs_by_age ON blobs (created_at);
CREATE INDEX function_versions_by_code ON function_versions (code_digest);
CREATE INDEX function_versions_by_image ON function_versions (image_digest);
CREATE INDEX executions_by_stdin ON executions (stdin_digest) WHERE stdin_digest IS NOT NULL;
