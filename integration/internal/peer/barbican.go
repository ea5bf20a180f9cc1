package peer

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
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
	unpacked, err := runScript(ctx, "barbican.sh")
	must.OK(t, err)
	dir := t.TempDir()
	log, port := filepath.Join(dir, "output.log"), filepath.Join(dir, "port")
	cmd := exec.Command(filepath.Join(unpacked, "bin", "python"), "-c", barbicanServer, barbicanConfig(t, dir, unpacked), port)
	cmd.Env = append(os.Environ(), "HOME="+dir) // where Barbican looks for .barbican/barbican.conf
	p, err := startTied(cmd, log)
	must.OK(t, err)
	atEnd(t, p.kill, log, filepath.Join(dir, "barbican.log"))
	var number []byte
	must.OK(t, waitFor(ctx, p, port, func() bool { number, err = os.ReadFile(port); return err == nil }))
	return &url.URL{Scheme: "http", Host: "127.0.0.1:" + string(number)}
}

// barbicanServer makes the tables, serves on a port of the kernel's choice, and writes it atomically to a
// file.
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
func barbicanConfig(t testing.TB, dir, unpacked string) string {
	t.Helper()
	const authenticated, open = "/v1: barbican-api-keystone\n", "/v1: barbican_api\n"
	content, err := os.ReadFile(filepath.Join(unpacked, "root", "usr", "share", "barbican-common", "barbican-api-paste.ini"))
	must.OK(t, err)
	if !bytes.Contains(content, []byte(authenticated)) {
		t.Fatal("Barbican's Paste configuration is not as expected")
	}
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
`, dir, base64.StdEncoding.EncodeToString([]byte(randomText("")))) // of 32 bytes
	must.OK(t, os.Mkdir(filepath.Join(dir, ".barbican"), 0o700))
	writeFiles(t, dir, map[string][]byte{
		"paste.ini":               bytes.Replace(content, []byte(authenticated), []byte(open), 1),
		".barbican/barbican.conf": []byte(config),
	})
	return filepath.Join(dir, "paste.ini")
}
