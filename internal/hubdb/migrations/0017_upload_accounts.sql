-- Whose an unfinished upload is; 0 where that was not written down, or is the server itself.
ALTER TABLE uploads ADD COLUMN account BIGINT NOT NULL DEFAULT 0;
CREATE INDEX uploads_account ON uploads (account);
