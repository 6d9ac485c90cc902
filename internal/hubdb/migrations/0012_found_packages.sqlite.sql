-- Repositories are found by the packages of their images, once these were scanned.
CREATE TRIGGER stale_scanned AFTER INSERT ON scan_images BEGIN
  INSERT INTO stale SELECT DISTINCT repository, 1 FROM manifests WHERE digest = new.image
  ON CONFLICT (repository) DO UPDATE SET version = version + 1;
END;
