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
-- What one layer says, by the digest of its blob or its diffID. Times are Unix seconds.
CREATE TABLE scan_records (
  layer   TEXT   NOT NULL PRIMARY KEY,
  format  BIGINT NOT NULL,
  used    BIGINT NOT NULL,
  record  TEXT   NOT NULL -- JSON
);

-- What was found in an image, by the digest of its manifest.
CREATE TABLE scan_images (
  image        TEXT   NOT NULL PRIMARY KEY,
  scanned      BIGINT NOT NULL,
  matched      BIGINT NOT NULL DEFAULT 0,  -- 0: there was no vulnerability data
  error        TEXT   NOT NULL DEFAULT '', -- why it could not be scanned
  distribution TEXT   NOT NULL DEFAULT '',
  packages     BIGINT NOT NULL DEFAULT 0,
  secrets      BIGINT NOT NULL DEFAULT 0,
  critical     BIGINT NOT NULL DEFAULT 0,  -- vulnerabilities, and so on
  high         BIGINT NOT NULL DEFAULT 0,
  medium       BIGINT NOT NULL DEFAULT 0,
  low          BIGINT NOT NULL DEFAULT 0,
  negligible   BIGINT NOT NULL DEFAULT 0,
  unknown      BIGINT NOT NULL DEFAULT 0,
  fixable      BIGINT NOT NULL DEFAULT 0,  -- of all of them
  generations  TEXT   NOT NULL DEFAULT '{}', -- JSON: of the sources that it was matched with
  notes        TEXT   NOT NULL DEFAULT '[]'  -- JSON: what was not looked at
);

CREATE TABLE scan_packages (
  image          TEXT   NOT NULL REFERENCES scan_images (image) ON DELETE CASCADE,
  number         BIGINT NOT NULL,
  type           TEXT   NOT NULL,
  name           TEXT   NOT NULL,
  version        TEXT   NOT NULL,
  arch           TEXT   NOT NULL DEFAULT '',
  source         TEXT   NOT NULL DEFAULT '',
  source_version TEXT   NOT NULL DEFAULT '',
  ecosystem      TEXT   NOT NULL DEFAULT '',
  key            TEXT   NOT NULL DEFAULT '', -- what vulnerabilities call it
  file           TEXT   NOT NULL DEFAULT '',
  layer          BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (image, number)
);
CREATE INDEX scan_packages_key ON scan_packages (key, ecosystem);
CREATE INDEX scan_packages_name ON scan_packages (name, version);

CREATE TABLE scan_findings (
  image     TEXT   NOT NULL REFERENCES scan_images (image) ON DELETE CASCADE,
  number    BIGINT NOT NULL,
  id        TEXT   NOT NULL,
  aliases   TEXT   NOT NULL DEFAULT '[]', -- JSON
  severity  BIGINT NOT NULL,
  score     TEXT   NOT NULL DEFAULT '',
  vector    TEXT   NOT NULL DEFAULT '',
  summary   TEXT   NOT NULL DEFAULT '',
  published TEXT   NOT NULL DEFAULT '',
  fixed     TEXT   NOT NULL DEFAULT '',
  package   BIGINT NOT NULL, -- its number
  PRIMARY KEY (image, number)
);
CREATE INDEX scan_findings_id ON scan_findings (id);

CREATE TABLE scan_secrets (
  image    TEXT   NOT NULL REFERENCES scan_images (image) ON DELETE CASCADE,
  number   BIGINT NOT NULL,
  rule     TEXT   NOT NULL,
  what     TEXT   NOT NULL,
  excerpt  TEXT   NOT NULL DEFAULT '',
  file     TEXT   NOT NULL DEFAULT '',
  place    TEXT   NOT NULL DEFAULT '', -- of the config
  line     BIGINT NOT NULL DEFAULT 0,
  layer    BIGINT NOT NULL DEFAULT 0,
  deleted  BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (image, number)
);
