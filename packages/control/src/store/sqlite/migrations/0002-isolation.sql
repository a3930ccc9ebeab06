-- The weakest isolation class that a version of a function may run in. Versions from before it was asked get the strong default.
ALTER TABLE function_versions ADD COLUMN isolation TEXT NOT NULL DEFAULT 'gvisor'
  CHECK (isolation IN ('microvm', 'gvisor', 'emulated', 'container'));
