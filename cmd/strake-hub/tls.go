package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// The files in the directory tls of a Hub that has an authority of its own.
const (
	caCert     = "ca.crt"
	caKey      = "ca.key"
	serverCert = "server.crt"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 397 * 24 * time.Hour
	renewAt    = 30 * 24 * time.Hour // before the end
)

// makeAuthority makes an authority for these hosts, and no others: who trusts it
// trusts nobody for other names. It writes ca.crt and ca.key.
func makeAuthority(p *place, hosts []string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	names, addresses := split(hosts)
	var ranges []*net.IPNet
	for _, ip := range addresses {
		ranges = append(ranges, &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))})
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "strake-hub " + hosts[0]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: names, PermittedIPRanges: ranges,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.file(caCert)), 0o700); err != nil {
		return err
	}
	return errors.Join(writeKey(p.file(caKey), key), writePEM(p.file(caCert), "CERTIFICATE", der, 0o644))
}

// makeCertificate makes the server's certificate, signed by the authority there,
// for the hosts that it is for.
func makeCertificate(p *place, now time.Time) error {
	pair, err := tls.LoadX509KeyPair(p.file(caCert), p.file(caKey))
	if err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "server of " + pair.Leaf.Subject.CommonName}, // not the issuer's: OpenSSL takes that for self-signed
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: pair.Leaf.PermittedDNSDomains, BasicConstraintsValid: true,
	}
	for _, r := range pair.Leaf.PermittedIPRanges {
		template.IPAddresses = append(template.IPAddresses, r.IP)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, pair.Leaf, key.Public(), pair.PrivateKey)
	if err != nil {
		return err
	}
	// One file with both, so that a server never reads two that do not belong together.
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	return writeFile(p.file(serverCert), both, 0o600)
}

func split(hosts []string) (names []string, addresses []net.IP) {
	for _, h := range hosts {
		ip := net.ParseIP(h)
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		if ip == nil {
			names = append(names, h)
		} else {
			addresses = append(addresses, ip)
		}
	}
	return names, addresses
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der, 0o600)
}

func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, b []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fingerprint is the sha256 of a file, in hex.
func fingerprint(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// certificate is the server's certificate, read again when its files change.
type certificate struct {
	cert, key string // files; one file may hold both
	own       *place // whose authority renews it; nil: somebody else does
	log       *slog.Logger

	current atomic.Pointer[tls.Certificate]
	seen    [2]time.Time // when the files were changed that current is made of
}

// load reads the certificate where its files changed; it renews one of our own
// that ends soon. The old one stays where the new one cannot be read.
func (c *certificate) load(now time.Time) error {
	if leaf := c.current.Load(); c.own != nil && (leaf == nil || leaf.Leaf.NotAfter.Sub(now) < renewAt) {
		if pair, err := tls.LoadX509KeyPair(c.cert, c.key); errors.Is(err, fs.ErrNotExist) || err == nil && pair.Leaf.NotAfter.Sub(now) < renewAt {
			if err := makeCertificate(c.own, now); err != nil {
				return fmt.Errorf("renew certificate: %w", err)
			}
		}
	}
	var seen [2]time.Time
	for i, name := range []string{c.cert, c.key} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		seen[i] = info.ModTime()
	}
	if c.current.Load() != nil && seen == c.seen {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if c.current.Swap(&pair) != nil {
		c.log.Info("certificate read again", "file", c.cert, "until", pair.Leaf.NotAfter)
	}
	c.seen = seen
	return nil
}

// watch reads the certificate again when a signal comes and every minute, until
// ctx ends.
func (c *certificate) watch(ctx context.Context, signals <-chan os.Signal) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		case <-tick.C:
		}
		if err := c.load(time.Now()); err != nil {
			c.log.Error("the old certificate stays", "err", err)
		}
	}
}

// config is the TLS of the server.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
