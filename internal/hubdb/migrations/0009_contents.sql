-- What is in the content store, or was about to be. A blob whose digest blobs,
-- manifests or trash name has a row here with deleting = 0 (hub.Collect).
CREATE TABLE contents (
  id       INTEGER PRIMARY KEY,
  digest   TEXT   NOT NULL UNIQUE,
  epoch    TEXT   NOT NULL,           -- random: another one each time that the bytes come back
  size     BIGINT NOT NULL,
  touched  BIGINT NOT NULL,           -- last time that somebody began to push it
  deleting BIGINT NOT NULL DEFAULT 0, -- since when its bytes are being removed
  holder   TEXT   NOT NULL DEFAULT '' -- who removes them
);
CREATE INDEX contents_deleting ON contents (deleting) WHERE deleting <> 0;

INSERT INTO contents (digest, epoch, size, touched)
SELECT digest, '', max(size), 0 FROM (
  SELECT digest, size FROM blobs UNION ALL SELECT digest, size FROM manifests UNION ALL SELECT digest, size FROM trash
) AS c GROUP BY digest;
