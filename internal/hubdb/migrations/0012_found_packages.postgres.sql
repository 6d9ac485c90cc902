-- As the file for SQLite.
CREATE FUNCTION note_scanned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO stale SELECT DISTINCT repository, 1 FROM manifests WHERE digest = NEW.image
  ON CONFLICT (repository) DO UPDATE SET version = stale.version + 1;
  RETURN NULL;
END $$;
CREATE TRIGGER stale_scanned AFTER INSERT ON scan_images FOR EACH ROW EXECUTE FUNCTION note_scanned();
