package remote_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/remote"
)

// outside listens at an address of this machine that is not a loopback one, for
// which TLS is not verified, and returns the host that names it.
func outside(t *testing.T) (net.Listener, string) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || !ip.IP.IsGlobalUnicast() || ip.IP.To4() == nil {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(ip.IP.String(), "0"))
		if err == nil {
			return l, l.Addr().String()
		}
	}
	t.Skip("this machine has no address but loopback ones")
	return nil, ""
}

// serveTLS serves h at l.
func serveTLS(t *testing.T, l net.Listener, conf *tls.Config, h http.Handler) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Listener.Close()
	s.Listener, s.TLS = l, conf
	s.StartTLS()
	t.Cleanup(s.Close)
}

func TestCVE_2025_6032_UntrustedCertificate(t *testing.T) {
	l, host := outside(t)
	asked := 0
	serveTLS(t, l, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	r, err := newClient(t, host, secret).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err == nil || asked > 0 || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("check: %v, %d requests", err, asked)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate, of itself where the authority is nil, and returns
// both as PEM.
func (a *authority) issue(t *testing.T, template x509.Certificate) (cert, key []byte, issued authority) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := &template, priv
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, priv.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), authority{parsed, priv}
}

// TestCertsDir is docker's certs.d: an authority and a client's certificate,
// with a registry that asks for one. A redirect's host does not get it.
func TestCertsDir(t *testing.T) {
	caPEM, _, ca := (*authority)(nil).issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(caPEM)
	listen := func(auth tls.ClientAuthType, h http.Handler) string {
		l, host := outside(t)
		name, _, _ := net.SplitHostPort(host)
		cert, key, _ := ca.issue(t, x509.Certificate{IPAddresses: []net.IP{net.ParseIP(name)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		serveTLS(t, l, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: pool}, h)
		return host
	}
	shown := -1
	other := listen(tls.RequestClientCert, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = len(r.TLS.PeerCertificates)
		fmt.Fprint(w, "blob")
	}))
	host := listen(tls.RequireAndVerifyClientCert, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "https://"+other+"/blob", http.StatusTemporaryRedirect)
		}
	}))
	dir := filepath.Join(t.TempDir(), "certs.d")
	check := func() error {
		c := client(t, remote.Options{CertsDirs: []string{dir}})
		r, err := c.Registry(host)
		if err != nil {
			return err
		}
		if err := r.Check(t.Context()); err != nil {
			return err
		}
		_, err = image.ReadAll(t.Context(), repository(t, c, host+"/a"), image.Bytes(ocispec.MediaTypeImageLayer, []byte("blob")), 10)
		return err
	}
	write := func(name string, b []byte) {
		if err := os.MkdirAll(filepath.Join(dir, host), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, host, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without certs.d: %v", err)
	}
	write("ca.crt", caPEM)
	if err := check(); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a client's certificate: %v", err)
	}
	cert, key, _ := ca.issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "me"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	write("client.cert", cert)
	if err := check(); err == nil || !strings.Contains(err.Error(), "client.key") {
		t.Errorf("without its key: %v", err)
	}
	write("client.key", key)
	if err := check(); err != nil {
		t.Error(err)
	}
	if shown != 0 {
		t.Errorf("the redirect's host was shown %d certificates", shown)
	}
}

// TestCVE_2024_45336_SecondRedirect also is CVE-2025-4673 and CVE-2026-49349:
// what one redirect drops, the next one must not bring back.
func TestCVE_2024_45336_SecondRedirect(t *testing.T) {
	other := newSpy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/1" {
			http.Redirect(w, r, "/2", http.StatusTemporaryRedirect)
			return
		}
		fmt.Fprint(w, "blob")
	})
	host := newHub(t, func(h http.Handler) http.Handler {
		return basicAuth(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/sha256:") {
				http.Redirect(w, r, "http://"+other.host+"/1", http.StatusTemporaryRedirect)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	desc := image.Bytes(ocispec.MediaTypeImageLayer, []byte("blob"))
	if _, err := image.ReadAll(t.Context(), repository(t, newClient(t, host, secret), host+"/a"), desc, 10); err != nil {
		t.Error(err)
	}
	if n := other.requests(t); n != 2 {
		t.Errorf("%d requests to the other host", n)
	}
}

// TestCVE_2026_48978_RefreshTokenDowngrade also is ggcr#2193.
func TestCVE_2026_48978_RefreshTokenDowngrade(t *testing.T) {
	thief := newSpy(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"t"}`) })
	s := httptest.NewTLSServer(bearer("http://" + thief.host + "/token"))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	r, err := newClient(t, host, remote.Credential{IdentityToken: secret.Password}).Registry(host)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Check(t.Context())
	if !errors.Is(err, errdefs.ErrPermissionDenied) || thief.requests(t) > 0 {
		t.Errorf("check: %v, %d requests", err, thief.requests(t))
	}
	wantNoSecret(t, err)
}

// TestCVE_2019_13509_SecretsInLogs also is CVE-2025-48374, GHSA-prh4-vhfh-24mj
// and CVE-2025-0495: what is logged, of what succeeds and of what fails, holds
// neither a password nor a token nor a signed URL.
func TestCVE_2019_13509_SecretsInLogs(t *testing.T) {
	var log bytes.Buffer
	fail := true
	host := newHub(t, func(h http.Handler) http.Handler {
		return bearerAuth(tokenServer(t))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if fail {
				fail = false
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	c := remote.NewClient(remote.Options{
		Credentials: func(context.Context, string) (remote.Credential, error) { return secret, nil },
		Log:         slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	defer c.Close()
	_, err := repository(t, c, host+"/team/app").Resolve(t.Context(), "v1")
	wantNoSecret(t, err)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("with it", "credential", secret)
	if log.Len() == 0 {
		t.Error("nothing was logged")
	}
	for _, leak := range []string{secret.Password, "user=" + secret.Username, "Bearer", "Basic", "czNjcjN0"} {
		if strings.Contains(log.String(), leak) {
			t.Errorf("the log tells %q:\n%s", leak, log.String())
		}
	}
}

func TestCVE_2025_65965_CredentialAsJSON(t *testing.T) {
	b, err := json.Marshal(map[string]any{"configuration": secret, "pointer": &secret})
	if err != nil || bytes.Contains(b, []byte(secret.Password)) {
		t.Errorf("%s, %v", b, err)
	}
}

// TestCVE_2023_46737_EndlessLists also is CVE-2024-29902, CVE-2023-33957 and
// CVE-2023-33958: a registry that lists without an end is not followed for ever.
func TestCVE_2023_46737_EndlessLists(t *testing.T) {
	pages := 0
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pages++
		w.Header().Set("Link", fmt.Sprintf(`<%s?n=1&last=%d>; rel="next"`, r.URL.Path, pages))
		if strings.Contains(r.URL.Path, "/referrers/") {
			d := image.Bytes(ocispec.MediaTypeImageManifest, []byte(fmt.Sprint(pages)))
			_ = json.NewEncoder(w).Encode(ocispec.Index{Manifests: []ocispec.Descriptor{d}})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": []string{fmt.Sprintf("t%09d", pages)}})
	}))
	r := newRegistry(t, host)
	if last := lastError(r.Referrers(t.Context(), "a", digest.FromString("x"), "", "")); !errdefs.IsResourceExhausted(last) {
		t.Errorf("referrers: %v after %d pages", last, pages)
	}
	if last := lastError(r.Tags(t.Context(), "a", "")); !errdefs.IsResourceExhausted(last) {
		t.Errorf("tags: %v after %d pages", last, pages)
	}
}

// lastError is the error of the last item of a list.
func lastError[T any](list iter.Seq2[T, error]) (last error) {
	for _, err := range list {
		last = err
	}
	return last
}
