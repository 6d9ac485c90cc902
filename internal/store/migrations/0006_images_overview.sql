-- What a list of images shows, in its order, so that it reads no more.
CREATE INDEX images_overview ON images (created DESC, id, size);
