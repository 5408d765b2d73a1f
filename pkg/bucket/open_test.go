package bucket_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
)

var background = context.Background()

func TestBadURLsSayWhatARightOneIs(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AZURE_STORAGE_ACCOUNT", "")
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", "")
	t.Setenv("AZURE_STORAGE_CONNECTION_STRING", "")
	t.Chdir(t.TempDir())
	for _, c := range []struct{ url, says string }{
		{"", "a bucket is ./folder"},
		{"ftp://host/x", "does not know ftp://; a bucket is"},
		{"s3:bucket", "write s3:// with two slashes"},
		{"s3://", "no bucket named; for example s3://bucket"},
		{"s3://b", "add ?region="},
		{"s3://b?regoin=eu", `no option "regoin" for s3://; it takes region, endpoint`},
		{"s3://b?region=a&region=b", `"region" is given 2 times`},
		{"s3://b?endpoint=127.0.0.1:7070", "like endpoint=http://127.0.0.1:7070"},
		{"s3://b?region=x&use_path_style=maybe", "say true or false"},
		{"s3://key:secret@b?region=x", "no names or passwords"},
		{"s3://b/a/../b?region=x", `segment ".."`},
		{"s3://b?region=%zz", "invalid URL escape"},
		{"gs://b?endpoint=host", "like endpoint=http://127.0.0.1:4443"},
		{"azblob://c", "no account; add ?storage_account="},
		{"azblob://c?storage_account=a&localemu=x", "say true or false"},
		{"mem://x?y=z", "it takes none"},
		{"file://data/eu", "write file:///data/eu"},
		{"file://", "no folder named"},
		{"file:///x?create=yes", "say create=true"},
		{"file:///x?metadata=skip", "it takes create"},
		{"file:///x#1", "write %23"},
		{"./nothing", "does not exist"},
		{"file:///no/such/folder", "make it first, or add ?create=true"},
	} {
		b, err := bucket.Open(background, c.url)
		if err == nil {
			t.Errorf("%s opened as %s", c.url, b.URL())
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; should say %q", c.url, err, c.says)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows a secret: %v", c.url, err)
		}
	}
}

func TestFoldersOpenByAnyOfTheirNames(t *testing.T) {
	dir := t.TempDir() + "/with space"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir + "/..")
	escaped := "file://" + strings.ReplaceAll(dir, " ", "%20")
	for _, url := range []string{dir, "./with space", "with space", escaped, escaped + "?create=false", "file://./with%20space", "file://localhost" + strings.ReplaceAll(dir, " ", "%20")} {
		b := open(t, url)
		if b.URL() != escaped {
			t.Errorf("%s is %s, want %s", url, b.URL(), escaped)
		}
		if again := open(t, b.URL()); again.URL() != b.URL() {
			t.Errorf("opened again it is %s", again.URL())
		}
	}
}

func TestFoldersAreMadeOnlyWhenAskedFor(t *testing.T) {
	dir := t.TempDir()
	if _, err := bucket.Open(background, dir+"/a/b"); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("got %v", err)
	}
	for _, url := range []string{dir + "/a/b?create=true", "file://" + dir + "/c?create=true"} {
		b := open(t, url)
		if err := b.PutNew(background, "k", nil); err != nil {
			t.Error(err)
		}
		open(t, url) // is no error when it is there
	}
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Open(background, dir+"/file"); !errors.Is(err, bucket.ErrNoBucket) || !strings.Contains(err.Error(), "is a file") {
		t.Errorf("got %v", err)
	}
}

func TestMemoryStoresAreSharedByName(t *testing.T) {
	one, two, other, nameless := open(t, "mem://shared"), open(t, "mem://shared/below"), open(t, "mem://other"), open(t, "mem://")
	if err := two.PutNew(background, "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if data, err := one.Get(background, "below/k"); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	for _, b := range []*bucket.Bucket{other, nameless, open(t, "mem://")} {
		if _, err := b.Sub("below").Get(background, "k"); err == nil {
			t.Errorf("%s sees it too", b.URL())
		}
	}
	if one.URL() != "mem://shared" || two.URL() != "mem://shared/below" {
		t.Errorf("%s, %s", one.URL(), two.URL())
	}
}

func TestCloudURLsKeepTheirOptionsAndPrefix(t *testing.T) {
	t.Setenv("AZURE_STORAGE_KEY", "a2V5")
	for _, url := range []string{
		"s3://bkt/pre/fix?endpoint=http://127.0.0.1:1&region=eu-west-1",
		"gs://bkt/pre?anonymous=true",
		"azblob://c/pre?storage_account=acc",
	} {
		if b := open(t, url); b.URL() != url {
			t.Errorf("%s is shown as %s", url, b.URL())
		}
	}
}
