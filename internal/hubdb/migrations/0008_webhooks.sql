-- Who is told of events, by HTTP. The scope is as in immutable_tags.
CREATE TABLE webhooks (
  id       INTEGER PRIMARY KEY,
  scope    TEXT   NOT NULL,
  url      TEXT   NOT NULL,
  secret   TEXT   NOT NULL, -- sealed
  events   TEXT   NOT NULL, -- " push tag "
  enabled  BIGINT NOT NULL DEFAULT 1,
  failing  BIGINT NOT NULL DEFAULT 0, -- since when every delivery failed; 0: the last one did not
  created  BIGINT NOT NULL,
  actor    TEXT   NOT NULL
);
CREATE INDEX webhooks_scope ON webhooks (scope);

CREATE TABLE deliveries (
  id       TEXT   NOT NULL PRIMARY KEY,
  webhook  BIGINT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
  event    TEXT   NOT NULL,
  payload  TEXT   NOT NULL, -- JSON
  created  BIGINT NOT NULL,
  attempts BIGINT NOT NULL DEFAULT 0,
  state    TEXT   NOT NULL DEFAULT 'pending', -- delivered, failed
  status   BIGINT NOT NULL DEFAULT 0,  -- of the last answer; 0: there was none
  answer   TEXT   NOT NULL DEFAULT '', -- the beginning of the last one, or why there was none
  finished BIGINT NOT NULL DEFAULT 0   -- the last attempt
);
CREATE INDEX deliveries_webhook ON deliveries (webhook, created, id);
