-- Vulnerabilities as OSV has them. A source is an ecosystem without its release: Debian, npm.
-- What is seen of it is its generation: rows with since <= generation that did not end by then.
CREATE TABLE vuln_sources (
  name         TEXT   NOT NULL PRIMARY KEY,
  generation   BIGINT NOT NULL DEFAULT 0,
  imported     BIGINT NOT NULL DEFAULT 0,  -- Unix seconds; 0: never to its end
  modified     TEXT   NOT NULL DEFAULT '', -- RFC 3339: of the record that changed last
  records      BIGINT NOT NULL DEFAULT 0,
  origin       TEXT   NOT NULL DEFAULT '',
  tag          TEXT   NOT NULL DEFAULT '', -- what the origin calls this state: an ETag
  importer     TEXT   NOT NULL DEFAULT '', -- who imports it now
  import_until BIGINT NOT NULL DEFAULT 0   -- Unix seconds
);

CREATE TABLE vulns (
  source    TEXT   NOT NULL,
  id        TEXT   NOT NULL,
  since     BIGINT NOT NULL, -- generation
  until     BIGINT NOT NULL DEFAULT 0, -- generation that has it no more; 0: none
  sum       TEXT   NOT NULL, -- of the record
  published TEXT   NOT NULL DEFAULT '',
  modified  TEXT   NOT NULL DEFAULT '',
  summary   TEXT   NOT NULL DEFAULT '',
  names     TEXT   NOT NULL DEFAULT '{}', -- JSON: aliases, upstream
  PRIMARY KEY (source, id, since)
);

CREATE TABLE vuln_affected (
  source    TEXT   NOT NULL,
  id        TEXT   NOT NULL,
  since     BIGINT NOT NULL,
  number    BIGINT NOT NULL,
  ecosystem TEXT   NOT NULL, -- with its release
  name      TEXT   NOT NULL, -- of a package
  versions  TEXT   NOT NULL, -- JSON: ranges, versions
  severity  BIGINT NOT NULL DEFAULT 0,
  score     TEXT   NOT NULL DEFAULT '',
  vector    TEXT   NOT NULL DEFAULT '',
  PRIMARY KEY (source, id, since, number),
  FOREIGN KEY (source, id, since) REFERENCES vulns (source, id, since) ON DELETE CASCADE
);
CREATE INDEX vuln_affected_name ON vuln_affected (ecosystem, name);
