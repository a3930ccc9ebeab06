-- Since when the operator gives a worker nothing more; null where it takes work.
ALTER TABLE workers ADD COLUMN drained_at INTEGER;
