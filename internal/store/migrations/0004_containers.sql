-- One row per container. spec and state are JSON objects of package container;
-- status is the state's, and true only as long as the container's lock is held.
-- A container keeps its image, whose row may be gone, from GC.
CREATE TABLE containers (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    image_id TEXT NOT NULL,
    manifest TEXT NOT NULL,
    created  BIGINT NOT NULL,
    status   TEXT NOT NULL,
    spec     TEXT NOT NULL,
    state    TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX containers_image_id ON containers (image_id);
