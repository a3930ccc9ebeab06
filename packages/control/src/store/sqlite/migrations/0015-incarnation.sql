-- Which history this is: one row. The marker is also in a file beside the database, and goes on with it: one that is neither of the two is of another
-- history than the database, which then came out of a backup.
CREATE TABLE incarnation (
  one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  incarnation TEXT NOT NULL,
  marker TEXT NOT NULL,
  -- What the file has until the newer one is written there.
  earlier_marker TEXT
) STRICT, WITHOUT ROWID;
