package servers

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
)

// AzuriteVersion is the Azure emulator that the tests run against.
const AzuriteVersion = "3.35.0"

// The account that every Azure emulator has. Its key is public.
const (
	azureAccount = "devstoreaccount1"
	azureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// AzureServer is an azurite that keeps everything in memory.
type AzureServer struct {
	*Process
	client *azblob.Client
}

// Azure starts a server. It has no containers yet. It sets the test's Azure
// environment to the emulator's account; it cannot be used in a parallel test. It
// needs node and npm.
func Azure(t testing.TB) *AzureServer {
	t.Helper()
	azurite := installed(t, "azurite-"+AzuriteVersion, "node_modules/.bin/azurite-blob", func(into string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", into, "azurite@"+AzuriteVersion)
	})
	for name, value := range AzureEnv() {
		t.Setenv(name, value)
	}
	p := launch(t, func(port int) *exec.Cmd {
		return exec.CommandContext(context.Background(), azurite, "--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(port),
			"--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence")
	}, "/", true)
	credential, err := azblob.NewSharedKeyCredential(azureAccount, azureKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azblob.NewClientWithSharedKeyCredential(fmt.Sprintf("http://127.0.0.1:%d/%s", p.Port, azureAccount), credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &AzureServer{Process: p, client: client}
}

// AzureEnv is what a process needs in its environment to use the servers of
// [Azure].
func AzureEnv() map[string]string {
	return map[string]string{
		"AZURE_STORAGE_ACCOUNT":           azureAccount,
		"AZURE_STORAGE_KEY":               azureKey,
		"AZURE_STORAGE_CONNECTION_STRING": "",
		"AZURE_STORAGE_SAS_TOKEN":         "",
	}
}

// Make creates a container and returns its URL for bucket.Open.
func (s *AzureServer) Make(t testing.TB, name string) string {
	t.Helper()
	if _, err := s.client.CreateContainer(t.Context(), name, nil); err != nil {
		t.Fatal(err)
	}
	return s.URL(name)
}

// URL is the URL of a container for bucket.Open, whether it exists or not.
func (s *AzureServer) URL(name string) string {
	return fmt.Sprintf("azblob://%s?protocol=http&localemu=true&domain=127.0.0.1:%d", name, s.Port)
}

// Remove takes a container away, with everything in it.
func (s *AzureServer) Remove(t testing.TB, name string) {
	t.Helper()
	if _, err := s.client.DeleteContainer(t.Context(), name, nil); err != nil {
		t.Fatal(err)
	}
}
