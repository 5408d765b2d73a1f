package bucket

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// provider opens the buckets of one URL scheme.
type provider struct {
	// example is shown in error messages.
	example string
	// options are the query parameters it knows. None of them is a secret.
	options []string
	open    func(ctx context.Context, u *url.URL) (Store, error)
}

// providers by scheme. Each cloud adds itself in a file of its own.
var providers = map[string]provider{}

// Open returns the bucket at a URL:
//
//	file:///var/lib/quarry/eu    a folder; ?create=true makes it. A plain path,
//	                             ./data or /var/lib/quarry/eu, is taken as one
//	mem://eu                     in this process's memory, one store per name;
//	                             mem:// is a new one each time
//	s3://bucket/prefix?region=eu-west-1
//	                             with endpoint=http://host:port for other servers
//	                             of the protocol (then use_path_style is true and
//	                             region us-east-1 unless said otherwise)
//	gs://bucket/prefix           with endpoint= or STORAGE_EMULATOR_HOST for others
//	azblob://container/prefix    with storage_account=, domain=, protocol=, localemu=
//
// Credentials never stand in the URL; they are found as each cloud's own tools
// find them. A folder must exist ([ErrNoBucket] otherwise); clouds are not asked
// anything before the first call.
func Open(ctx context.Context, rawurl string) (*Bucket, error) {
	b, err := open(ctx, rawurl)
	if err != nil {
		return nil, err
	}
	return opened(b), nil
}

func open(ctx context.Context, rawurl string) (*Bucket, error) {
	if rawurl == "" {
		return nil, fmt.Errorf("open bucket: no URL; %s", examples())
	}
	scheme, _, found := strings.Cut(rawurl, "://")
	if !found {
		if scheme, _, found := strings.Cut(rawurl, ":"); found && (providers[scheme].open != nil || scheme == "file" || scheme == "mem") {
			return nil, fmt.Errorf("open bucket %q: write %s:// with two slashes; %s", rawurl, scheme, examples())
		}
		return openPath(rawurl)
	}
	u, err := url.Parse(rawurl)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w; %s", err, examples())
	}
	if u.User != nil {
		return nil, fmt.Errorf("open bucket %s: no names or passwords in the URL; give credentials as %s's own tools take them (environment, files, roles)", u.Redacted(), scheme)
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("open bucket %s: what does #%s mean? write %%23 for a # in a name", rawurl, u.Fragment)
	}
	switch u.Scheme {
	case "file":
		return openFileURL(u)
	case "mem":
		if err := known(u, nil); err != nil {
			return nil, err
		}
		return below(newBucket(openMem(u.Host), showURL(&url.URL{Scheme: "mem", Host: u.Host})), u.Path)
	}
	p, ok := providers[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("open bucket %s: this program does not know %s://; %s", rawurl, u.Scheme, examples())
	}
	if u.Host == "" {
		return nil, fmt.Errorf("open bucket %s: no bucket named; for example %s", rawurl, p.example)
	}
	if err := known(u, p.options); err != nil {
		return nil, err
	}
	store, err := p.open(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", rawurl, err)
	}
	return below(newBucket(store, showURL(&url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: u.RawQuery})), u.Path)
}

// openPath opens a folder given as people give them to other commands.
func openPath(dir string) (*Bucket, error) {
	dir, create := strings.CutSuffix(dir, "?create=true")
	store, err := openFile(dir, create)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w; make it first, or add ?create=true", dir, err)
	}
	return newBucket(store, showURL(&url.URL{Scheme: "file", Path: store.root})), nil
}

func openFileURL(u *url.URL) (*Bucket, error) {
	dir := u.Path
	switch u.Host {
	case "", "localhost":
	case ".", "..":
		dir = u.Host + u.Path
	default:
		return nil, fmt.Errorf("open bucket %s: a folder has no host: write file:///%s%s, or file://./%s%s for one below here", u, u.Host, u.Path, u.Host, u.Path)
	}
	if dir == "" {
		return nil, fmt.Errorf("open bucket %s: no folder named; for example file:///var/lib/quarry/eu", u)
	}
	if err := known(u, []string{"create"}); err != nil {
		return nil, err
	}
	create := u.Query().Get("create")
	if create != "" && create != "true" && create != "false" {
		return nil, fmt.Errorf("open bucket %s: create=%s; say create=true or create=false", u, create)
	}
	store, err := openFile(dir, create == "true")
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w; make it first, or add ?create=true", u, err)
	}
	return newBucket(store, showURL(&url.URL{Scheme: "file", Path: store.root})), nil
}

// below applies the path of a URL.
func below(b *Bucket, prefix string) (*Bucket, error) {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		return b, nil
	}
	if err := checkKey(prefix, prefix, true); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.URL(), err)
	}
	return b.Sub(prefix), nil
}

// known refuses a query parameter that would otherwise be ignored.
func known(u *url.URL, options []string) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("open bucket %s://%s%s: %w", u.Scheme, u.Host, u.Path, err)
	}
	for name, values := range query {
		if !slices.Contains(options, name) {
			say := "it takes none"
			if len(options) > 0 {
				say = "it takes " + strings.Join(options, ", ")
			}
			return fmt.Errorf("open bucket %s://%s%s: no option %q for %s://; %s", u.Scheme, u.Host, u.Path, name, u.Scheme, say)
		}
		if len(values) > 1 {
			return fmt.Errorf("open bucket %s://%s%s: option %q is given %d times", u.Scheme, u.Host, u.Path, name, len(values))
		}
	}
	return nil
}

func showURL(base *url.URL) func(prefix string) string {
	return func(prefix string) string {
		if prefix == "" {
			return base.String()
		}
		shown := *base
		shown.Path = path.Join("/", base.Path, prefix)
		return shown.String()
	}
}

func examples() string {
	all := []string{"./folder", "file:///folder", "mem://name"}
	for _, scheme := range []string{"s3", "gs", "azblob"} {
		if p, ok := providers[scheme]; ok {
			all = append(all, p.example)
		}
	}
	return "a bucket is " + strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}
