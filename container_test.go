package outflow_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/outflowhq/outflow/internal/config"
)

type composeFile struct {
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
}

type composeService struct {
	Build       string                       `yaml:"build"`
	Image       string                       `yaml:"image"`
	Command     []string                     `yaml:"command"`
	Environment map[string]string            `yaml:"environment"`
	DependsOn   map[string]map[string]string `yaml:"depends_on"`
	Ports       []string                     `yaml:"ports"`
	Restart     string                       `yaml:"restart"`
	Healthcheck map[string]any               `yaml:"healthcheck"`
	Volumes     []string                     `yaml:"volumes"`
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	text, err := os.ReadFile("docker-compose.yml")
	require.NoError(t, err)
	var c composeFile
	require.NoError(t, yaml.Unmarshal(text, &c))
	require.NotEmpty(t, c.Services)
	return c
}

// publishes reports whether a port of the container is also this machine's.
func (s composeService) publishes(port string) bool {
	return slices.ContainsFunc(s.Ports, func(p string) bool { return strings.HasSuffix(p, ":"+port) })
}

// own are the services that run Outflow's image.
func (c composeFile) own() map[string]composeService {
	own := map[string]composeService{}
	for name, s := range c.Services {
		if s.Build != "" {
			own[name] = s
		}
	}
	return own
}

func TestComposeServicesFitTogether(t *testing.T) {
	c := readCompose(t)
	for _, name := range []string{"postgres", "temporal", "temporal-ui", "elasticmq", "migrate", "setup", "starter",
		"worker"} {
		require.Contains(t, c.Services, name)
	}
	publishes := regexp.MustCompile(`^127\.0\.0\.1:\$\{([A-Z_]+_PORT):-(\d+)\}:\d+$`)
	published := map[string]string{}
	for name, s := range c.Services {
		for other, how := range s.DependsOn {
			target, ok := c.Services[other]
			require.True(t, ok, "%s depends on %s, which is not there", name, other)
			switch how["condition"] {
			case "service_healthy":
				require.NotEmpty(t, target.Healthcheck, "%s waits for the health of %s, which has no check", name,
					other)
			case "service_completed_successfully":
				require.Equal(t, "no", target.Restart, "%s waits for the end of %s, which restarts", name, other)
			case "service_started":
			default:
				t.Errorf("%s waits for %s in an unknown way: %q", name, other, how["condition"])
			}
		}
		for _, p := range s.Ports {
			// Docker opens a port that names no address to everybody, past the firewall's rules.
			require.Regexp(t, publishes, p, "%s: whatever else runs here may have the port, so a variable changes it",
				name)
			for _, host := range publishes.FindStringSubmatch(p)[1:] {
				require.Empty(t, published[host], "%s and %s publish port %s", name, published[host], host)
				published[host] = name
			}
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			require.Contains(t, c.Volumes, volume, "%s mounts a volume that is not declared", name)
		}
	}
}

// What is run tomorrow is what was looked at today: no tag that moves.
func TestImagesAreExact(t *testing.T) {
	// Postgres has two numbers, and Debian's or Alpine's name may follow.
	exact := regexp.MustCompile(`^(postgres:\d+\.\d+|[a-z/-]+:\d+\.\d+\.\d+)(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)
	for name, s := range readCompose(t).Services {
		if s.Build == "" {
			require.Regexp(t, exact, s.Image, name)
		}
	}
	dockerfile, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	images := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(dockerfile), -1)
	require.NotEmpty(t, images)
	for _, image := range images {
		require.Regexp(t, exact, image[1])
	}
}

func TestComposeCommandsAreTheImagesPrograms(t *testing.T) {
	programs := dockerBuilds(t)
	for name, s := range readCompose(t).own() {
		require.NotEmpty(t, s.Command, name)
		require.Contains(t, programs, s.Command[0], "%s runs a program that the image lacks", name)
		if len(s.Command) > 1 {
			usage, err := exec.Command("go", "run", programs[s.Command[0]], "help").Output()
			require.NoError(t, err)
			require.Contains(t, string(usage), "  "+strings.Join(s.Command, " ")+" ",
				"%s runs a command that help does not know", name)
		}
	}
}

// TestComposeEnvironmentIsRead loads the settings as the programs do, and
// follows every address to the service that it names.
func TestComposeEnvironmentIsRead(t *testing.T) {
	c := readCompose(t)
	known := []string{
		"DATABASE_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE",
		"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_SQS",
	}
	for _, s := range config.Settings {
		known = append(known, s.Name)
	}
	for name, s := range c.own() {
		for variable, value := range s.Environment {
			require.Contains(t, known, variable, "%s sets a variable that no program reads", name)
			t.Setenv(variable, value)
		}
		loaded, err := config.Load(t.Context(), func(v string) string { return s.Environment[v] })
		require.NoError(t, err, name)
		require.Equal(t, "postgres", loaded.Database.ConnConfig.Host)
		require.EqualValues(t, 5432, loaded.Database.ConnConfig.Port)
		postgres := c.Services["postgres"].Environment
		require.Equal(t, postgres["POSTGRES_USER"], loaded.Database.ConnConfig.User)
		require.Equal(t, postgres["POSTGRES_PASSWORD"], loaded.Database.ConnConfig.Password)
		require.Equal(t, postgres["POSTGRES_DB"], loaded.Database.ConnConfig.Database)
		require.Equal(t, "temporal:7233", loaded.Temporal.HostPort)
		require.True(t, c.Services["temporal"].publishes("7233"))
		endpoint, err := url.Parse(s.Environment["AWS_ENDPOINT_URL_SQS"])
		require.NoError(t, err)
		require.Contains(t, c.Services, endpoint.Hostname())
		require.True(t, c.Services[endpoint.Hostname()].publishes(endpoint.Port()))
	}
}

// TestComposeDaemonsAreProbed follows each health check to the address where
// the daemon answers it.
func TestComposeDaemonsAreProbed(t *testing.T) {
	own := readCompose(t).own()
	for _, name := range []string{"starter", "worker"} {
		s, ok := own[name]
		require.True(t, ok, name)
		test, ok := s.Healthcheck["test"].([]any)
		require.True(t, ok, "%s has no health check", name)
		require.NotEmpty(t, test)
		require.Equal(t, "CMD", test[0], "%s: no shell is needed", name)
		require.Equal(t, "/usr/bin/wget", test[1], "%s: busybox has it there; the image's PATH leaves it out", name)
		probe, err := url.Parse(test[len(test)-1].(string))
		require.NoError(t, err)
		require.Equal(t, "/readyz", probe.Path)
		require.Equal(t, s.Environment["OUTFLOW_HEALTH_ADDRESS"], probe.Host, "%s answers elsewhere", name)
		for _, number := range []string{"interval", "timeout", "start_period"} {
			wait, err := time.ParseDuration(s.Healthcheck[number].(string))
			require.NoError(t, err, "%s: %s", name, number)
			require.Greater(t, wait, 2*time.Second, "%s: %s leaves each check its 2 s", name, number)
		}
		require.Positive(t, s.Healthcheck["retries"])
	}
	for name, s := range own {
		if s.Restart == "no" {
			require.Empty(t, s.Healthcheck, "%s ends by itself: who waits for it waits for its end", name)
		}
	}
}

// dockerBuild is a go build line of the Dockerfile.
var dockerBuild = regexp.MustCompile(`go build (-trimpath) -o /out/(\S+) (\./\S+)`)

// dockerBuilds returns the programs of the image with their packages.
func dockerBuilds(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	programs := map[string]string{}
	for _, m := range dockerBuild.FindAllStringSubmatch(string(text), -1) {
		programs[m[2]] = m[3]
	}
	require.Len(t, programs, strings.Count(string(text), "go build"), "every go build line is understood")
	return programs
}

func TestDockerfileBuildsStaticPrograms(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	require.Contains(t, string(text), "CGO_ENABLED=0")
	users := regexp.MustCompile(`(?m)^USER (\S+)$`).FindStringSubmatch(string(text))
	require.NotEmpty(t, users)
	require.False(t, slices.Contains([]string{"0", "root"}, users[1]), "the image runs as %s", users[1])

	ignored, err := os.ReadFile(".dockerignore")
	require.NoError(t, err)
	out := t.TempDir()
	for program, source := range dockerBuilds(t) {
		first := strings.Split(strings.TrimPrefix(source, "./"), "/")[0]
		require.NotContains(t, strings.Fields(string(ignored)), first)
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(out, program), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
}
