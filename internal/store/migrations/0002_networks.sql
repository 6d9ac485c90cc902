-- The networks of containers; config is what docker's API tells of one.
CREATE TABLE networks (
    id     TEXT PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL
) WITHOUT ROWID;

-- The network namespaces of running containers: under which name, on which
-- ports of 127.0.0.11 names are resolved, what is published. A row of a container
-- that has died goes with the next command.
CREATE TABLE sandboxes (
    container_id TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    dns_udp      BIGINT NOT NULL,
    dns_tcp      BIGINT NOT NULL,
    ports        TEXT NOT NULL
) WITHOUT ROWID;

-- What of a network is whose. The address is NULL where there is none.
CREATE TABLE endpoints (
    network_id   TEXT NOT NULL,
    container_id TEXT NOT NULL,
    ipv4         TEXT,
    ipv6         TEXT,
    link         TEXT NOT NULL, -- the host's end
    interface    TEXT NOT NULL, -- the container's
    settings     TEXT NOT NULL, -- as docker's API has them
    PRIMARY KEY (container_id, network_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX endpoints_ipv4 ON endpoints (network_id, ipv4);
CREATE UNIQUE INDEX endpoints_ipv6 ON endpoints (network_id, ipv6);
