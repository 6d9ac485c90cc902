-- Garbage collections that were begun, the last hundred.
CREATE TABLE collections (
  id        INTEGER PRIMARY KEY,
  began     BIGINT NOT NULL,
  ended     BIGINT NOT NULL DEFAULT 0, -- 0: it goes on, or its process ended
  manifests BIGINT NOT NULL DEFAULT 0,
  links     BIGINT NOT NULL DEFAULT 0,
  blobs     BIGINT NOT NULL DEFAULT 0,
  bytes     BIGINT NOT NULL DEFAULT 0,
  uploads   BIGINT NOT NULL DEFAULT 0,
  orphans   BIGINT NOT NULL DEFAULT 0,
  error     TEXT   NOT NULL DEFAULT ''
);

-- Where a browser that is logged in is.
ALTER TABLE sessions ADD COLUMN address TEXT   NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN agent   TEXT   NOT NULL DEFAULT ''; -- as it calls itself
ALTER TABLE sessions ADD COLUMN used    BIGINT NOT NULL DEFAULT 0;  -- last time, to the hour
