-- What the layers of an image do to those below, and what is kept of each layer to find that out.
ALTER TABLE scan_records ADD COLUMN files BLOB; -- the layer's index, compressed; empty: it has none that is kept; NULL: not made yet
ALTER TABLE scan_images ADD COLUMN layers TEXT NOT NULL DEFAULT '[]'; -- JSON of []scandb.LayerFiles

-- Who reads a layer now, so that it is read once. Times are Unix milliseconds.
CREATE TABLE scan_reading (
  layer  TEXT   NOT NULL PRIMARY KEY,
  holder TEXT   NOT NULL,
  until  BIGINT NOT NULL
);
