-- Which containers mount which images (--mount type=image): a row comes and goes
-- with the container's, and keeps the image as the container's own is kept.
CREATE TABLE image_mounts (
    container_id TEXT NOT NULL,
    image_id     TEXT NOT NULL,
    manifest     TEXT NOT NULL,
    PRIMARY KEY (container_id, image_id)
) WITHOUT ROWID;
CREATE INDEX image_mounts_image_id ON image_mounts (image_id);
