-- Input files of an execution, a JSON array of their names with their bytes in base64, or with the digest and length of a blob.
ALTER TABLE executions ADD COLUMN files TEXT;
