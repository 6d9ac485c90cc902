-- What waits to be published. A review is of one tag, and goes on when its author pushes again; once it is decided well, the next push begins another.
CREATE TABLE reviews (
  id         INTEGER PRIMARY KEY,
  repository BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
  tag        TEXT   NOT NULL,
  digest     TEXT   NOT NULL,
  state      TEXT   NOT NULL, -- checking, waiting, returned; approved, withdrawn
  author     TEXT   NOT NULL, -- name of an account
  opened     BIGINT NOT NULL,
  changed    BIGINT NOT NULL,
  reviewer   TEXT   NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX reviews_open ON reviews (repository, tag) WHERE state IN ('checking', 'waiting', 'returned');
CREATE INDEX reviews_state ON reviews (state, changed);
CREATE INDEX reviews_digest ON reviews (repository, digest);

-- What the automatic checks of its present digest said.
CREATE TABLE review_checks (
  review   BIGINT NOT NULL REFERENCES reviews (id) ON DELETE CASCADE,
  position BIGINT NOT NULL,
  name     TEXT   NOT NULL,
  result   TEXT   NOT NULL, -- pass, warn, fail
  message  TEXT   NOT NULL,
  PRIMARY KEY (review, position)
);

-- What people said and did, in order.
CREATE TABLE review_comments (
  id     INTEGER PRIMARY KEY,
  review BIGINT NOT NULL REFERENCES reviews (id) ON DELETE CASCADE,
  at     BIGINT NOT NULL,
  author TEXT   NOT NULL,
  kind   TEXT   NOT NULL, -- push, comment, approve, return, withdraw
  text   TEXT   NOT NULL
);
CREATE INDEX review_comments_review ON review_comments (review, id);
