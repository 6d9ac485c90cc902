-- What may have become garbage, so that hub.Collect looks at what changed and not at all there is. Triggers write the
-- rows, whoever makes the change. A row may be there twice, and may be wrong: Collect looks. None may lack: a row of
-- blobs that refs and trash_refs do not name has one with its repository, and a row of contents that blobs, manifests
-- and trash do not name, and whose bytes are not being removed, has one without.
CREATE TABLE candidates (
  id         INTEGER PRIMARY KEY,
  repository BIGINT NOT NULL, -- whose link to a blob it is; 0: the bytes
  digest     TEXT   NOT NULL,
  since      BIGINT NOT NULL  -- Unix seconds: when its grace began; 0: long ago
);
CREATE INDEX candidates_links ON candidates (since, id) WHERE repository <> 0;
CREATE INDEX candidates_bytes ON candidates (since, id) WHERE repository = 0;

CREATE TRIGGER candidates_linked AFTER INSERT ON blobs BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (new.repository, new.digest, new.linked);
END;
CREATE TRIGGER candidates_unreferred AFTER DELETE ON refs BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (old.repository, old.child, 0);
END;
CREATE TRIGGER candidates_expired AFTER DELETE ON trash_refs BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (old.repository, old.child, 0);
END;
CREATE TRIGGER candidates_reserved AFTER INSERT ON contents BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, new.digest, new.touched);
END;
CREATE TRIGGER candidates_unlinked AFTER DELETE ON blobs BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, old.digest, 0);
END;
CREATE TRIGGER candidates_deleted AFTER DELETE ON manifests BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, old.digest, 0);
END;
CREATE TRIGGER candidates_forgotten AFTER DELETE ON trash BEGIN
  INSERT INTO candidates (repository, digest, since) VALUES (0, old.digest, 0);
END;

-- Without this row, which a new database has, the first collection looks at all that is there.
INSERT INTO settings (name, value) SELECT 'gc-full', '0' WHERE NOT EXISTS (SELECT 1 FROM contents);
