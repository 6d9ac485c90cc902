package network

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"strake/internal/sqldb"
)

// sandbox is a row of sandboxes.
type sandbox struct {
	id, name       string
	dnsUDP, dnsTCP int
	ports          network.PortMap // what is published: the bindings as they are
}

// endpoint is a row of endpoints.
type endpoint struct {
	network, container string
	link, iface        string
	settings           network.EndpointSettings
}

// state is all rows, as of one moment.
type state struct {
	networks  []network.Network // by name
	sandboxes []sandbox
	endpoints []endpoint
}

// byID returns the network of an ID; nil if it is gone.
func (s *state) byID(id string) *network.Network {
	i := slices.IndexFunc(s.networks, func(n network.Network) bool { return n.ID == id })
	if i < 0 {
		return nil
	}
	return &s.networks[i]
}

// of returns the endpoints of a container, in the order of their interfaces.
func (s *state) of(container string) []endpoint {
	var list []endpoint
	for _, e := range s.endpoints {
		if e.container == container {
			list = append(list, e)
		}
	}
	return list
}

// has reports whether there is a row of a container.
func (s *state) has(container string) bool {
	return slices.ContainsFunc(s.sandboxes, func(o sandbox) bool { return o.id == container }) ||
		slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return e.container == container })
}

// drop removes the rows of containers.
func (s *state) drop(containers []string) {
	s.sandboxes = slices.DeleteFunc(s.sandboxes, func(o sandbox) bool { return slices.Contains(containers, o.id) })
	s.endpoints = slices.DeleteFunc(s.endpoints, func(e endpoint) bool { return slices.Contains(containers, e.container) })
}

// rows reads and writes the tables.
type rows struct{ db *sqldb.DB }

// read reads all rows.
func (r rows) read(ctx context.Context) (s state, err error) {
	err = r.db.View(ctx, func(tx *sql.Tx) error {
		s, err = readState(ctx, tx)
		return err
	})
	if err != nil {
		return state{}, fmt.Errorf("read networks: %w", err)
	}
	return s, nil
}

func readState(ctx context.Context, tx *sql.Tx) (s state, err error) {
	if s.networks, err = readNetworks(ctx, tx); err != nil {
		return s, err
	}
	if s.sandboxes, err = readSandboxes(ctx, tx); err != nil {
		return s, err
	}
	s.endpoints, err = readEndpoints(ctx, tx)
	return s, err
}

func readNetworks(ctx context.Context, tx *sql.Tx) ([]network.Network, error) {
	return sqldb.Collect(ctx, tx, "SELECT config FROM networks ORDER BY name", nil, func(rows *sql.Rows, nw *network.Network) error {
		var config string
		if err := rows.Scan(&config); err != nil {
			return err
		}
		return json.Unmarshal([]byte(config), nw)
	})
}

func readSandboxes(ctx context.Context, tx *sql.Tx) ([]sandbox, error) {
	const query = "SELECT container_id, name, dns_udp, dns_tcp, ports FROM sandboxes"
	return sqldb.Collect(ctx, tx, query, nil, func(rows *sql.Rows, s *sandbox) error {
		var ports string
		if err := rows.Scan(&s.id, &s.name, &s.dnsUDP, &s.dnsTCP, &ports); err != nil {
			return err
		}
		return json.Unmarshal([]byte(ports), &s.ports)
	})
}

func readEndpoints(ctx context.Context, tx *sql.Tx) ([]endpoint, error) {
	const query = "SELECT network_id, container_id, link, interface, settings FROM endpoints ORDER BY container_id, LENGTH(interface), interface"
	return sqldb.Collect(ctx, tx, query, nil, func(rows *sql.Rows, e *endpoint) error {
		var settings string
		if err := rows.Scan(&e.network, &e.container, &e.link, &e.iface, &settings); err != nil {
			return err
		}
		return json.Unmarshal([]byte(settings), &e.settings)
	})
}

// sandboxes reads the rows of that table.
func (r rows) sandboxes(ctx context.Context) (list []sandbox, err error) {
	err = r.db.View(ctx, func(tx *sql.Tx) error {
		list, err = readSandboxes(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read networks: %w", err)
	}
	return list, nil
}

// insertNetwork adds a network.
func insertNetwork(ctx context.Context, tx *sql.Tx, nw network.Network) error {
	config, err := json.Marshal(nw)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO networks (id, name, config) VALUES ($1, $2, $3)", nw.ID, nw.Name, string(config))
	return err
}

// insertSandbox adds a sandbox.
func insertSandbox(ctx context.Context, tx *sql.Tx, s sandbox) error {
	ports, err := json.Marshal(s.ports)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO sandboxes (container_id, name, dns_udp, dns_tcp, ports) VALUES ($1, $2, $3, $4, $5)",
		s.id, s.name, s.dnsUDP, s.dnsTCP, string(ports))
	return err
}

// insertEndpoint adds an endpoint.
func insertEndpoint(ctx context.Context, tx *sql.Tx, e endpoint) error {
	settings, err := json.Marshal(e.settings)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO endpoints (network_id, container_id, ipv4, ipv6, link, interface, settings)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, e.network, e.container, column(e.settings.IPAddress), column(e.settings.GlobalIPv6Address),
		e.link, e.iface, string(settings))
	return err
}

// column is that of an address.
func column(a netip.Addr) any {
	if !a.IsValid() {
		return nil
	}
	return a.String()
}

// note writes rows of what runs: after a loss of power nothing does, so it does not
// wait for the disk.
func (r rows) note(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return writing(r.db.Note(ctx, fn))
}

// writing says what failed, unless docker has words for it.
func writing(err error) error {
	if _, ok := errors.AsType[refusal](err); ok || err == nil {
		return err
	}
	return fmt.Errorf("write networks: %w", err)
}

// forget drops the rows of containers.
func (r rows) forget(ctx context.Context, ids []string) error {
	return r.note(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if err := forgetOne(ctx, tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

func forgetOne(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM sandboxes WHERE container_id = $1", id)
	_, endErr := tx.ExecContext(ctx, "DELETE FROM endpoints WHERE container_id = $1", id)
	return errors.Join(err, endErr)
}

// dropEndpoint drops the row of an endpoint.
func (r rows) dropEndpoint(ctx context.Context, e endpoint) error {
	return r.note(ctx, func(tx *sql.Tx) error { return deleteEndpoint(ctx, tx, e) })
}

func deleteEndpoint(ctx context.Context, tx *sql.Tx, e endpoint) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM endpoints WHERE container_id = $1 AND network_id = $2", e.container, e.network)
	return err
}
