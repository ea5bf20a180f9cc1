package peer

import (
	"crypto/x509"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// WebServer is an nginx that serves the files of a directory. It requires the password of a user and a cookie.
type WebServer struct {
	*Server
	Files    string // the directory
	User     string
	Password string
	Cookie   string // value of the cookie "session"
	TLS      bool
}

// StartWeb starts a web server for a test: over https with a certificate of the authority for its address, or
// over http if a is nil.
func StartWeb(t testing.TB, a *Authority) *WebServer {
	t.Helper()
	w := &WebServer{Files: t.TempDir(), User: "vm1", Password: randomText("web-"), Cookie: randomText("cookie-"), TLS: a != nil}
	var certificate, key []byte
	if w.TLS {
		certificate, key = a.Issue(t, x509.ExtKeyUsageServerAuth, "127.0.0.1")
	}
	w.Server = startServer(t, "nginx", func(dir string, port int) *exec.Cmd {
		writeFiles(t, dir, map[string][]byte{
			"cert.pem": certificate, "key.pem": key,
			"passwords": []byte(w.User + ":{PLAIN}" + w.Password + "\n"), "nginx.conf": []byte(w.config(dir, port)),
		})
		return exec.Command("nginx", "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
	})
	return w
}

// config returns nginx's configuration, with a single process, which ends with the test.
func (w *WebServer) config(dir string, port int) string {
	listen := "listen 127.0.0.1:" + strconv.Itoa(port)
	if w.TLS {
		listen += " ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem"
	}
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("  %s_temp_path %s/%s;\n", kind, dir, kind)
	}
	return fmt.Sprintf(`daemon off; master_process off; pid %s/pid; worker_rlimit_nofile 256;
events { worker_connections 128; }
http {
  access_log off;
%s  server {
    %s;
    root %s;
    location / {
      auth_basic disks; auth_basic_user_file passwords;
      if ($cookie_session != "%s") { return 403; }
    }
  }
}
`, dir, temporary, listen, w.Files, w.Cookie)
}

// SourceXML returns the <source> of a file. inner follows its <host>.
func (w *WebServer) SourceXML(file, inner string) string {
	protocol := "http"
	if w.TLS {
		protocol = "https"
	}
	return fmt.Sprintf("<source protocol='%s' name='/%s'>%s%s</source>", protocol, file, w.HostXML(), inner)
}
