-- Long values lie beside their keys, not in the tree of them: a search of the
-- tree would read whole each of those that it compares with. They are the last
-- of their rows, so that the rest is read without them.
CREATE TABLE cache_values (
    key     TEXT NOT NULL,
    slot    TEXT NOT NULL,
    created BIGINT NOT NULL,
    used    BIGINT NOT NULL,
    value   BLOB NOT NULL
);
INSERT INTO cache_values (key, slot, created, used, value) SELECT key, slot, created, used, value FROM cache;
DROP TABLE cache;
ALTER TABLE cache_values RENAME TO cache;
CREATE UNIQUE INDEX cache_key ON cache (key);
CREATE INDEX cache_slot ON cache (slot, created);

CREATE TABLE context_values (
    dir   TEXT NOT NULL,
    used  BIGINT NOT NULL,
    value BLOB NOT NULL
);
INSERT INTO context_values (dir, used, value) SELECT dir, used, value FROM contexts;
DROP TABLE contexts;
ALTER TABLE context_values RENAME TO contexts;
CREATE UNIQUE INDEX contexts_dir ON contexts (dir);
