-- Work that is to be done once, by any replica. Times are Unix milliseconds.
CREATE TABLE jobs (
  kind          TEXT   NOT NULL,
  key           TEXT   NOT NULL, -- of a kind: what it is about
  payload       TEXT   NOT NULL DEFAULT '',
  version       BIGINT NOT NULL DEFAULT 1, -- grows when the job is added again
  created       BIGINT NOT NULL,
  not_before    BIGINT NOT NULL,
  attempts      BIGINT NOT NULL DEFAULT 0,
  claim         TEXT   NOT NULL DEFAULT '', -- of who works on it
  claimed_until BIGINT NOT NULL DEFAULT 0,
  failed        BIGINT NOT NULL DEFAULT 0, -- 1: it was given up
  error         TEXT   NOT NULL DEFAULT '', -- of the last attempt
  PRIMARY KEY (kind, key)
);
CREATE INDEX jobs_due ON jobs (kind, failed, not_before);
