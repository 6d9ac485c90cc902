-- The changes of all tags of a repository, the last first.
CREATE INDEX tag_history_repository ON tag_history (repository, id);
