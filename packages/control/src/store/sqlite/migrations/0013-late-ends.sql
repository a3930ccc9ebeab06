-- What a worker reported of an attempt that had ended without it, as JSON: evidence.
ALTER TABLE attempts ADD COLUMN late_end TEXT;
