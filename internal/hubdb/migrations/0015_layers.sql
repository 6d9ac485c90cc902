-- include scandb/0003_layers.sql
-- The scan of an image counts the files of its layers.
ALTER TABLE images DROP COLUMN layers;
-- Images whose scan nobody asked for yet: those that were pushed before there were scans, or while nothing asked for them.
ALTER TABLE manifests ADD COLUMN scan_asked BIGINT NOT NULL DEFAULT 0; -- 1: it was, or it is no image
CREATE INDEX manifests_unasked ON manifests (digest) WHERE scan_asked = 0;
