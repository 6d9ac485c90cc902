-- Repositories are found by the first one and two characters of their names, the popular ones first.
CREATE INDEX repositories_base_1 ON repositories (public, substr(base, 1, 1), popularity DESC, id);
CREATE INDEX repositories_base_2 ON repositories (public, substr(base, 1, 2), popularity DESC, id);
CREATE INDEX repositories_name_1 ON repositories (public, substr(name, 1, 1), popularity DESC, id);
CREATE INDEX repositories_name_2 ON repositories (public, substr(name, 1, 2), popularity DESC, id);
