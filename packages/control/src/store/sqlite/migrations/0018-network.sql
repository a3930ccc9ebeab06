-- What a function may reach: JSON, null for nothing. Whether running it twice does no harm.
ALTER TABLE function_versions ADD COLUMN network TEXT;
ALTER TABLE function_versions ADD COLUMN idempotent INTEGER NOT NULL DEFAULT 0;
-- Whether the worker lets functions have a network.
ALTER TABLE workers ADD COLUMN egress INTEGER NOT NULL DEFAULT 0;
-- What an attempt sent and received, as its worker counted it: JSON, null where it had no network.
ALTER TABLE attempts ADD COLUMN usage_egress TEXT;
