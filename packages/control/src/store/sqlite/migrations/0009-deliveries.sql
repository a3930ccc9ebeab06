-- How an execution goes on after an attempt: the user's policy as JSON, null for none, and how often it went on.
ALTER TABLE function_versions ADD COLUMN retries TEXT;
ALTER TABLE executions ADD COLUMN retries TEXT;
ALTER TABLE executions ADD COLUMN retries_used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN redeliveries_used INTEGER NOT NULL DEFAULT 0;

ALTER TABLE attempts ADD COLUMN cause TEXT NOT NULL DEFAULT 'first' CHECK (cause IN ('first', 'redelivery', 'retry'));
-- When the wait before a retry is over.
ALTER TABLE attempts ADD COLUMN not_before INTEGER;

DROP INDEX executions_by_queue_expiry;
CREATE INDEX executions_by_queue_expiry ON executions (queue_expires_at) WHERE state = 'open' OR phase = 'requeued';
