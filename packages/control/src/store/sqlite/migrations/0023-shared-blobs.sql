-- Where several servers share a place for blobs: those that nobody needs, since when, and since when a server is removing one.
CREATE TABLE condemned_blobs (
  digest TEXT NOT NULL PRIMARY KEY,
  since INTEGER NOT NULL,
  removing_since INTEGER
) STRICT, WITHOUT ROWID;
-- Of the daemon that has the session, which a worker's key may have been copied from.
ALTER TABLE workers ADD COLUMN instance TEXT;
