-- One row per file in blobs/. A row exists exactly when the file does, but for
-- the moment between a rename and its transaction.
CREATE TABLE blobs (
    digest  TEXT PRIMARY KEY,
    size    BIGINT NOT NULL,
    created BIGINT NOT NULL,
    used    BIGINT NOT NULL
) WITHOUT ROWID;

-- One row per layer: its tar is the blob of the same digest, its index lies in indexes/.
CREATE TABLE layers (
    diff_id    TEXT PRIMARY KEY,
    size       BIGINT NOT NULL,
    index_size BIGINT NOT NULL,
    side_size  BIGINT NOT NULL
) WITHOUT ROWID;

-- The compressed blobs that are known to hold a layer; recipe is the Recipe that
-- one was made with here ('' when it came so).
CREATE TABLE compressed (
    digest     TEXT PRIMARY KEY,
    diff_id    TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size       BIGINT NOT NULL,
    recipe     TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX compressed_diff_id ON compressed (diff_id);

-- Who needs whom: a manifest its config, layer blobs and diffIDs, a compressed
-- blob its diffID. Which manifests an index keeps, variants says.
CREATE TABLE refs (
    parent TEXT NOT NULL,
    child  TEXT NOT NULL,
    PRIMARY KEY (parent, child)
) WITHOUT ROWID;
CREATE INDEX refs_child ON refs (child);

-- One row per image, keyed by its ID (the digest of the config).
CREATE TABLE images (
    id            TEXT PRIMARY KEY,
    manifest      TEXT NOT NULL,
    manifest_type TEXT NOT NULL,
    manifest_size BIGINT NOT NULL,
    created       BIGINT NOT NULL,
    size          BIGINT NOT NULL,
    os            TEXT NOT NULL,
    architecture  TEXT NOT NULL,
    variant       TEXT NOT NULL,
    labels        TEXT NOT NULL,
    tagged        BIGINT NOT NULL,
    used          BIGINT NOT NULL,
    pinned        BIGINT NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX images_manifest ON images (manifest);

-- The manifests of an index that are here, whatever it names besides. Each but
-- attestations is an image; the image of the lowest rank is chosen to stand for
-- the index: this machine's platform, else the first.
CREATE TABLE variants (
    root          TEXT NOT NULL,
    manifest      TEXT NOT NULL,
    manifest_type TEXT NOT NULL,
    manifest_size BIGINT NOT NULL,
    image_id      TEXT NOT NULL,
    rank          BIGINT NOT NULL,
    chosen        BIGINT NOT NULL,
    PRIMARY KEY (root, manifest)
) WITHOUT ROWID;
CREATE INDEX variants_manifest ON variants (manifest);
CREATE INDEX variants_image_id ON variants (image_id, chosen);
CREATE INDEX variants_others ON variants (image_id) WHERE chosen = 0;

-- A name points to a root descriptor and to the image that is chosen of it.
CREATE TABLE names (
    name      TEXT PRIMARY KEY,
    root      TEXT NOT NULL,
    root_type TEXT NOT NULL,
    root_size BIGINT NOT NULL,
    image_id  TEXT NOT NULL,
    tagged    BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX names_image_id ON names (image_id);
CREATE INDEX names_root ON names (root);

-- Under which digest a repository holds an image; source is the repository, or
-- the mirror's, that the image was pulled from ('' when it was not).
CREATE TABLE repo_digests (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL,
    root_type  TEXT NOT NULL,
    root_size  BIGINT NOT NULL,
    image_id   TEXT NOT NULL,
    source     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX repo_digests_image_id ON repo_digests (image_id);
CREATE INDEX repo_digests_digest ON repo_digests (digest);

-- Repositories that are known to hold a blob.
CREATE TABLE sources (
    digest     TEXT NOT NULL,
    repository TEXT NOT NULL,
    PRIMARY KEY (digest, repository)
) WITHOUT ROWID;

-- Uploads to registries that were not finished: of the blob called key, where
-- the registry said that it goes on.
CREATE TABLE uploads (
    repository TEXT NOT NULL,
    key        TEXT NOT NULL,
    location   TEXT NOT NULL,
    lease      TEXT NOT NULL, -- of who works on it; '' is nobody
    begun      BIGINT NOT NULL,
    PRIMARY KEY (repository, key)
) WITHOUT ROWID;

-- The build cache: what a step made, by key; slot names the step, to explain a miss.
CREATE TABLE cache (
    key     TEXT PRIMARY KEY,
    slot    TEXT NOT NULL,
    value   BLOB NOT NULL,
    created BIGINT NOT NULL,
    used    BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX cache_slot ON cache (slot, created);

CREATE TABLE cache_layers (
    key     TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    PRIMARY KEY (key, diff_id)
) WITHOUT ROWID;
CREATE INDEX cache_layers_diff_id ON cache_layers (diff_id);

-- The stat cache of a build context.
CREATE TABLE contexts (
    dir   TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    used  BIGINT NOT NULL
) WITHOUT ROWID;

-- What a running process works on; the process holds a lock on leases/<lease>.
CREATE TABLE leases (
    lease  TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (lease, digest)
) WITHOUT ROWID;

-- What can be undone, the newest last: each removal and each name that moved.
CREATE TABLE journal (
    id   BIGINT PRIMARY KEY,
    at   BIGINT NOT NULL,
    what TEXT NOT NULL
) WITHOUT ROWID;

-- The rows that an entry brings back, as JSON objects of their columns.
CREATE TABLE journal_rows (
    entry    BIGINT NOT NULL,
    seq      BIGINT NOT NULL,
    image_id TEXT NOT NULL,
    origin   TEXT NOT NULL, -- the table
    content  TEXT NOT NULL,
    PRIMARY KEY (entry, seq)
) WITHOUT ROWID;
CREATE INDEX journal_rows_image_id ON journal_rows (image_id);

-- What GC leaves for an entry: the manifests and indexes that its rows name.
CREATE TABLE journal_holds (
    entry    BIGINT NOT NULL,
    digest   TEXT NOT NULL,
    image_id TEXT NOT NULL,
    PRIMARY KEY (entry, digest, image_id)
) WITHOUT ROWID;
CREATE INDEX journal_holds_digest ON journal_holds (digest);

-- What happened to images, as events tells it; attributes is a JSON object.
CREATE TABLE events (
    id         BIGINT PRIMARY KEY,
    at         BIGINT NOT NULL,
    type       TEXT NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    attributes TEXT NOT NULL
) WITHOUT ROWID;
