package namespace

import (
	"strings"

	"github.com/outflowhq/outflow/internal/text"
)

// Target says where a namespace is, for the commands that people run.
type Target struct {
	Address, Namespace string
}

// cloudDomains end the addresses of Temporal Cloud's namespace, regional and private endpoints.
// https://docs.temporal.io/cloud/namespaces#access-namespaces
var cloudDomains = []string{".tmprl.cloud", ".api.temporal.io"}

// Cloud reports whether the address is one of Temporal Cloud.
func (t Target) Cloud() bool {
	host := t.Address[strings.LastIndexByte(t.Address, '/')+1:] // after dns:///
	host, _, _ = strings.Cut(host, ":")
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, domain := range cloudDomains {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	return false
}

// Commands returns the shell commands that create the named search attributes; without names, all
// that Outflow uses.
// https://docs.temporal.io/cli/operator#search-attribute
// https://docs.temporal.io/cli/command-reference/cloud/namespace
// https://docs.temporal.io/cloud/tcld/namespace#search-attributes
func (t Target) Commands(names []string) []string {
	if len(names) == 0 {
		names = AttributeNames()
	}
	var lines []string
	if !t.Cloud() {
		for _, name := range names {
			lines = append(lines, "temporal operator search-attribute create --address "+text.ShellWord(t.Address)+
				" --namespace "+text.ShellWord(t.Namespace)+" --name "+name+" --type Keyword")
		}
		return lines
	}
	lines = append(lines, "# with the temporal command and its cloud extension, as an administrator of the namespace:")
	tcld := "tcld namespace search-attributes add --namespace " + text.ShellWord(t.Namespace)
	for _, name := range names {
		lines = append(lines, "temporal cloud namespace search-attribute create --namespace "+
			text.ShellWord(t.Namespace)+" --name "+name+" --type Keyword --idempotent")
		tcld += " --search-attribute " + name + "=Keyword"
	}
	return append(lines, "# or with tcld:", tcld)
}
