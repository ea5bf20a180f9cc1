package peer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Barbican starts OpenStack's key manager without authentication, with its database in a directory of the
// test, and returns its address: the header X-Project-Id selects the project. It ends with the test. The
// first call unpacks it into the cache. Without mmdebstrap the test is skipped.
func Barbican(t testing.TB) *url.URL {
	t.Helper()
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("Barbican: mmdebstrap is not installed (make setup installs it)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	at, p, err := runBarbican(ctx, dir)
	if p != nil {
		atEnd(t, p.kill, filepath.Join(dir, "barbican.log"))
	}
	if err != nil {
		t.Fatalf("start Barbican: %v", err)
	}
	return at
}

// runBarbican starts it with all its files in dir. The process is nil if none was started.
func runBarbican(ctx context.Context, dir string) (*url.URL, *process, error) {
	unpacked, err := runScript(ctx, "barbican.sh")
	if err != nil {
		return nil, nil, err
	}
	paste, err := barbicanConfig(dir, unpacked)
	if err != nil {
		return nil, nil, err
	}
	log, port := filepath.Join(dir, "output.log"), filepath.Join(dir, "port")
	cmd := exec.Command(filepath.Join(unpacked, "bin", "python"), "-c", barbicanServer, paste, port)
	cmd.Env = append(os.Environ(), "HOME="+dir) // where Barbican looks for .barbican/barbican.conf
	p, err := startTied(cmd, log)
	if err != nil {
		return nil, nil, err
	}
	var number []byte
	if err := waitFor(ctx, p, port, func() bool { number, err = os.ReadFile(port); return err == nil }); err != nil {
		return nil, p, fmt.Errorf("%w: %s", err, tail(log, 2000))
	}
	at, err := url.Parse("http://127.0.0.1:" + string(number))
	return at, p, err
}

// barbicanServer makes the tables, serves on a port that the kernel chooses, and writes that port atomically
// to a file.
const barbicanServer = `
import os, sys
from wsgiref import simple_server
from paste import deploy

class Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass

app = deploy.loadapp("config:" + sys.argv[1])
server = simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)
with open(sys.argv[2] + ".new", "w") as f:
    f.write(str(server.server_port))
os.rename(sys.argv[2] + ".new", sys.argv[2])
server.serve_forever()
`

// barbicanConfig writes the configuration and returns the path of Paste's, which selects how requests are
// handled: Debian's file, with the pipeline without Keystone.
func barbicanConfig(dir, unpacked string) (string, error) {
	const authenticated, open = "/v1: barbican-api-keystone\n", "/v1: barbican_api\n"
	content, err := os.ReadFile(filepath.Join(unpacked, "root", "usr", "share", "barbican-common", "barbican-api-paste.ini"))
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(content), authenticated) {
		return "", errors.New("its Paste configuration is not as expected")
	}
	paste := filepath.Join(dir, "paste.ini")
	if err := os.WriteFile(paste, []byte(strings.Replace(string(content), authenticated, open, 1)), 0o600); err != nil {
		return "", err
	}
	var kek [32]byte
	_, _ = rand.Read(kek[:]) // never fails
	config := fmt.Sprintf(`[DEFAULT]
sql_connection = sqlite:///%[1]s/barbican.sqlite
db_auto_create = True
log_file = %[1]s/barbican.log
[queue]
enable = False
[crypto]
enabled_crypto_plugins = simple_crypto
[simple_crypto_plugin]
kek = %[2]s
`, dir, base64.StdEncoding.EncodeToString(kek[:]))
	if err := os.Mkdir(filepath.Join(dir, ".barbican"), 0o700); err != nil {
		return "", err
	}
	return paste, os.WriteFile(filepath.Join(dir, ".barbican", "barbican.conf"), []byte(config), 0o600)
}
