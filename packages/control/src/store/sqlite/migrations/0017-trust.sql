-- How many attempts a worker may have at once where trust is earned. Those that have joined before have earned it.
ALTER TABLE workers ADD COLUMN allowance INTEGER NOT NULL DEFAULT 2;
UPDATE workers SET allowance = 1024;
