package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// conformanceKit returns the directory of the conformance kit: libvirt's plans of some two hundred disks. Its
// data have another licence than the repository; LUKSPLUG_SHARED names the directory that has it.
func conformanceKit(t *testing.T) string {
	t.Helper()
	shared := os.Getenv("LUKSPLUG_SHARED")
	if shared == "" {
		shared = filepath.Join(repository, "..", "shared")
	}
	kit := must.Get(filepath.Abs(filepath.Join(shared, "conformance")))(t)
	if _, err := os.Stat(filepath.Join(kit, "compare.py")); err != nil {
		t.Skipf("the conformance kit is not here (LUKSPLUG_SHARED says where): %v", err)
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skipf("the conformance kit needs Python: %v", err)
	}
	return kit
}

// kitResult is the kit's result of one case.
type kitResult struct {
	ID     string   `json:"id"`
	Status string   `json:"status"`
	Diff   []string `json:"diff"`
}

// runKit runs the kit's comparison and returns the result of each case.
func runKit(t *testing.T, args ...string) map[string]kitResult {
	t.Helper()
	kit := conformanceKit(t)
	out := filepath.Join(t.TempDir(), "results.json")
	args = append([]string{"-B", "compare.py", "--tool", "python3 -B plan-adapter.py " + luksplug, "--list", "open.txt", "--json", out}, args...)
	cmd := exec.CommandContext(t.Context(), "python3", args...)
	cmd.Dir = kit
	text, runErr := cmd.CombinedOutput() // it also fails if a case does
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatalf("the kit has no results: %v: %v\n%s", err, runErr, text)
	}
	var list []kitResult
	must.OK(t, json.Unmarshal(data, &list))
	results := map[string]kitResult{}
	for _, r := range list {
		results[r.ID] = r
	}
	return results
}

// unreachable are the cases of the kit that luksplug refuses on purpose, and why. A listed case that passes is
// an error.
var unreachable = map[string]string{
	"disk-source-pool-mode-0": "the pool is libvirt's view of an iSCSI target through the host's own initiator, and its XML does not say " +
		"which block device of the host a volume is: only a running libvirt knows (the case has the made-up path of libvirt's own test)",
}

// TestConformance compares luksplug's plans with libvirt's for every disk of the kit, with the order of the
// nodes.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"all": nil, "encrypted": {"--subset", "enc"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results := runKit(t, append(args, "--order")...)
			passed := 0
			for id, r := range results {
				reason, listed := unreachable[id]
				switch {
				case r.Status == "passed" && listed:
					t.Errorf("%s passes, and is listed as unreachable: %s", id, reason)
				case r.Status == "passed":
					passed++
				case !listed:
					t.Errorf("%s %s: %s", id, r.Status, strings.Join(r.Diff, "; "))
				}
			}
			if least := map[string]int{"all": 200, "encrypted": 15}[name]; passed < least {
				t.Errorf("%d cases passed, and there should be %d", passed, least)
			}
			t.Logf("%d of %d cases passed", passed, len(results))
		})
	}
}

// causes are the words that a refusal must contain, by libvirt's cause.
var causes = map[string][]string{
	"disk-attaching-partition-nosupport":       {"invalid disk target", "partitions"},
	"disk-device-lun-type-invalid":             {"lun", "only valid for block type"},
	"disk-fmt-cow":                             {"'cow'", "not supported"},
	"disk-fmt-iso":                             {"'iso'", "use 'raw'"},
	"disk-network-iscsi-auth-wrong-secrettype": {"invalid secret type 'ceph'"},
	"disk-network-iscsi-zero-hosts-invalid":    {"iSCSI", "only one host"},
	"disk-network-source-auth-both":            {"<auth>", "already found"},
	"disk-scsi-product-length":                 {"product", "more than 16 characters"},
	"disk-target-overflow":                     {"unknown disk name", "hdaxxxxxxxxxx"},
	"doc-domain-10":                            {"'lun'", "storage slice"},
	"doc-domain-15":                            {"parse user", "USER"},
	"luks-disk-invalid":                        {"<cipher>", "unnecessary"},
	"luks-disks-source-both":                   {"<encryption>", "already found"},
	"x2j-block-raw-reservations":               {"reservations", "only for lun"},

	// These are conflicts of a disk with the rest of its domain.
	"disk-address-conflict":              {"sata", "unit 0", "in use"},
	"disk-hostdev-scsi-address-conflict": {"target 0 unit 0", "in use"},
	"disk-sata-incompatible-address":     {"Invalid address type 'pci'", "'sata'"},
	"disk-scsi-incompatible-address":     {"Invalid address type 'pci'", "'scsi'"},
}

// notPlanned are refusals that a plan cannot make, because it does not know the QEMU.
var notPlanned = map[string]string{
	"disk-network-rbd-encryption-layering-7.2.0": "the QEMU lacks the feature: an attach finds that out from its schema, before the first change",
}

// TestConformanceRefusals: a disk that libvirt refuses is refused for the same cause.
func TestConformanceRefusals(t *testing.T) {
	t.Parallel()
	kit := conformanceKit(t)
	results := runKit(t, "--errors")
	if len(results) < len(causes) {
		t.Errorf("the kit has %d refusals, and %d are known here", len(results), len(causes))
	}
	for id, r := range results {
		if reason, ok := notPlanned[id]; ok {
			t.Logf("%s cannot be refused by a plan: %s", id, reason)
			continue
		}
		messages := r.Diff
		switch r.Status {
		case "skipped":
			messages = refuseInDomain(t, filepath.Join(kit, "corpus", "errors", id, "domain.xml"))
		case "passed":
			// The kit appends libvirt's own message.
			messages[0], _, _ = strings.Cut(messages[0], " | libvirt: ")
		default:
			t.Errorf("%s %s: %s", id, r.Status, r.Diff)
			continue
		}
		words, known := causes[id]
		if !known {
			t.Errorf("%s has no cause in this test: %q", id, messages)
		}
		for _, w := range words {
			if !strings.Contains(strings.Join(messages, "\n"), w) {
				t.Errorf("%s: the cause has %q, luksplug says %q", id, w, messages)
			}
		}
	}
}

var diskElement = regexp.MustCompile(`(?s)<disk\b.*?</disk>`)

// refuseInDomain plans each disk of a domain for the rest of it, and returns the messages of those that are
// refused.
func refuseInDomain(t *testing.T, path string) []string {
	t.Helper()
	data := must.Get(os.ReadFile(path))(t)
	var out []string
	for _, at := range diskElement.FindAllIndex(data, -1) {
		rest := filepath.Join(t.TempDir(), "domain.xml")
		must.OK(t, os.WriteFile(rest, append(append([]byte(nil), data[:at[0]]...), data[at[1]:]...), 0o600))
		cmd := exec.CommandContext(t.Context(), luksplug, "plan", "--domain-xml", rest, "-")
		cmd.Stdin = strings.NewReader(string(data[at[0]:at[1]]))
		if text, err := cmd.CombinedOutput(); err != nil {
			out = append(out, string(text))
		}
	}
	return out
}

// TestConformanceVolumes compares the commands for each volume and each new image of the kit with libvirt's.
func TestConformanceVolumes(t *testing.T) {
	t.Parallel()
	kit := filepath.Join(conformanceKit(t), "vol")
	adapter := must.Get(filepath.Abs(filepath.Join("testdata", "volume-adapter.py")))(t)
	cmd := exec.CommandContext(t.Context(), "python3", "-B", "compare_vol.py", "--tool", "python3 -B "+adapter+" "+luksplug, "--list", "open.txt")
	cmd.Dir = kit
	out, err := cmd.CombinedOutput()
	const cases = 24
	if passed := strings.Count(string(out), "PASS "); err != nil || passed < cases {
		t.Errorf("%d cases passed, and there should be %d: %v\n%s", passed, cases, err, out)
	}
}
