package strake_test

// module is the module path, as go.mod has it.
const module = "strake"

// Budgets. An exception may lift a function to hardFunction, no further.
const (
	maxFunction  = 80  // lines
	hardFunction = 100 // lines
	maxFile      = 600 // lines
	maxMethods   = 25  // methods of a type, exported or not
	maxInterface = 8   // methods of an interface, embedded ones not counted
)

// place is a package's place in the architecture.
type place struct {
	layer   int
	imports string // the internal packages it may import
}

// all is every package of the layers 1 to 4 that the command line is made of.
const all = "archive attest azblob bake bucketcache build container content dockerfile executor flock gha image layer layout mount network progress reference registry remote rootfs s3cache scan scandb secret sign sourcepolicy sqldb sshagent store userns vuln volume"

// packages is the package table of ARCHITECTURE.md: the packages in internal/.
var packages = map[string]place{
	"flock":     {1, ""},
	"content":   {1, "flock"},
	"archive":   {1, ""},
	"mount":     {1, ""},
	"sqldb":     {1, ""},
	"address":   {1, ""},
	"registry":  {1, ""},
	"image":     {1, ""},
	"secret":    {1, ""},
	"sshagent":  {1, ""},
	"progress":  {1, ""},
	"reference": {1, ""},
	"userns":    {1, "flock"},
	"systemd":   {1, ""},
	"fault":     {1, ""},
	"seal":      {1, ""},
	"bake":      {1, ""},
	"azblob":    {1, ""},
	"s3cache":   {1, ""},

	"sourcepolicy": {1, ""},

	"layer":       {2, "archive"},
	"bucketcache": {2, "image"},
	"s3":          {2, "content"},
	"pgdb":        {2, "sqldb"},
	"jobs":        {2, "sqldb"},
	"executor":    {2, "flock mount systemd userns"},
	"gha":         {2, "azblob image"},
	"layout":      {2, "archive content image reference"},
	"remote":      {2, "address image reference registry"},

	"rootfs":    {3, "archive flock layer mount userns"},
	"store":     {3, "archive content flock image layer reference sqldb userns"},
	"build":     {3, "address archive content executor image layer progress rootfs secret sourcepolicy userns"},
	"container": {3, "executor flock layer rootfs sqldb"},
	"network":   {3, "flock sqldb userns"},
	"volume":    {3, "archive flock layer mount sqldb userns"},
	"scan":      {3, "archive layer secret"},
	"vuln":      {3, "address scan sqldb"},
	"scandb":    {3, "archive image jobs layer registry scan sqldb vuln"},
	"sign":      {3, "image"},
	"hubdb":     {3, "jobs pgdb scandb sqldb vuln"},
	"auth":      {3, "fault hubdb sqldb"},
	"hub":       {3, "auth content fault hubdb image jobs registry s3 scan sqldb"},
	"catalog":   {3, "auth registry scandb sqldb"},

	"gate":       {4, "auth registry sqldb"},
	"oidc":       {5, "auth gate sqldb"},
	"hubapi":     {5, "auth catalog fault gate hub policy proxy registry review scan scandb sqldb vuln webhook"},
	"attest":     {4, "scan secret"},
	"dockerfile": {4, "build executor image reference"},
	"policy":     {4, "auth fault hub image jobs registry sqldb"},
	"webhook":    {4, "address auth fault hub jobs policy seal sqldb"},
	"review":     {4, "auth fault hub image jobs registry secret sqldb"},
	"proxy":      {4, "auth fault hub image jobs policy reference registry remote seal sqldb"},
	"web":        {5, "auth catalog fault gate hub policy proxy registry review scan scandb sqldb vuln webhook"},

	"engine":    {5, all},
	"engineapi": {6, "engine"},
	"bakefile":  {5, "bake dockerfile"},
	"browse":    {6, "engine progress"},
	"cli":       {7, "bake browse engine engineapi progress reference userns"},

	"conformance": {8, all + " auth catalog hub hubdb jobs pgdb policy proxy review s3 seal usertest web webhook"}, // for tests only
	"usertest":    {8, "userns"},
}

// commands are the packages in cmd/ and what they may import.
var commands = map[string]string{
	"strake":      "cli",
	"strake-bake": "bakefile",
	"strake-hub":  "auth catalog content gate hub hubapi hubdb jobs oidc policy proxy registry review s3 scandb seal sqldb vuln web webhook",
}

// testOnly are the internal packages that only tests import.
var testOnly = []string{"conformance", "usertest"}

// shared are the modules that any package may import, each with the reason.
// Every other module has one importing package.
var shared = map[string]string{
	"github.com/opencontainers/image-spec":   "borrowed vocabulary",
	"github.com/opencontainers/runtime-spec": "borrowed vocabulary",
	"github.com/opencontainers/go-digest":    "borrowed vocabulary",
	"github.com/containerd/platforms":        "borrowed vocabulary",
	"github.com/containerd/errdefs":          "borrowed vocabulary",
	"github.com/moby/moby/api":               "borrowed vocabulary",
	"github.com/moby/docker-image-spec":      "borrowed vocabulary",
	"golang.org/x/sys":                       "the part of the standard library that is frozen in package syscall",
	"golang.org/x/term":                      "the terminal half of golang.org/x/sys",
	"github.com/moby/sys/user":               "the format of passwd and group files, which COPY --chown and USER read",
	"github.com/docker/go-units":             "how docker writes and reads sizes and durations",
	"golang.org/x/crypto":                    "the part of the standard library's cryptography that is not in it: argon2 in auth, the SSH agent in sshagent",
	"github.com/pelletier/go-toml/v2":        "the format of configuration files: registries.conf in remote, the Hub's in strake-hub",
	"golang.org/x/sync":                      "the part of package sync that is not yet in the standard library",
}

// importers names the one package that imports a module, where the design says
// which one. For other modules the first importer has it.
var importers = map[string]string{
	"github.com/moby/buildkit":      "dockerfile",
	"github.com/spf13/cobra":        "cli",
	"github.com/gdamore/tcell/v3":   "browse",
	"github.com/google/osv-scalibr": "vuln",
	"github.com/pandatix/go-cvss":   "vuln",
	"modernc.org/sqlite":            "sqldb",
	"github.com/jackc/pgx/v5":       "pgdb",
	"github.com/miekg/dns":          "network",
	"github.com/go-jose/go-jose/v4": "gate",
	"github.com/minio/minio-go/v7":  "s3",
	"github.com/aws/aws-sdk-go-v2":  "s3cache",

	"github.com/aws/aws-sdk-go-v2/credentials": "s3cache",

	"github.com/containerd/stargz-snapshotter/estargz": "archive",

	"github.com/docker/buildx":              "bakefile",
	"github.com/hashicorp/hcl/v2":           "bakefile",
	"github.com/compose-spec/compose-go/v2": "bakefile",
}

// exception allows what a rule forbids.
type exception struct {
	where  string // as in the violation
	rule   string
	reason string
}

var exceptions = []exception{}
