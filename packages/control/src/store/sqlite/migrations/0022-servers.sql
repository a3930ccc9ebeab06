-- Several servers may use one database in PostgreSQL. The tables have the same columns here, where there is one server: it fills in little of this.
CREATE TABLE servers (
  server_id TEXT NOT NULL PRIMARY KEY,
  directory_id TEXT NOT NULL,
  blobs TEXT NOT NULL,
  beat INTEGER NOT NULL,
  started_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE markers (
  directory_id TEXT NOT NULL PRIMARY KEY,
  incarnation TEXT NOT NULL,
  marker TEXT NOT NULL,
  earlier_marker TEXT
) STRICT, WITHOUT ROWID;
ALTER TABLE incarnation ADD COLUMN server_id TEXT;
ALTER TABLE workers ADD COLUMN server_id TEXT;
ALTER TABLE workers ADD COLUMN blob_token TEXT;
ALTER TABLE attempts ADD COLUMN capped_function TEXT;
ALTER TABLE attempts ADD COLUMN capped_key TEXT;
