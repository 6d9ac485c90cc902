-- One row per volume; its files lie in volumes/<name>. Labels and options are
-- JSON objects, or null.
CREATE TABLE volumes (
    name    TEXT PRIMARY KEY,
    created BIGINT NOT NULL,
    labels  TEXT NOT NULL,
    options TEXT NOT NULL
) WITHOUT ROWID;

-- Which containers use which volumes: a row comes and goes with the container's.
CREATE TABLE volume_users (
    volume       TEXT NOT NULL,
    container_id TEXT NOT NULL,
    PRIMARY KEY (volume, container_id)
) WITHOUT ROWID;
CREATE INDEX volume_users_container_id ON volume_users (container_id);
