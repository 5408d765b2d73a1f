package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"
)

func init() {
	providers["azblob"] = provider{
		example: "azblob://container?storage_account=name",
		options: []string{"storage_account", "domain", "protocol", "cdn", "localemu"},
		open:    openAzure,
	}
}

// openAzure makes the client itself: gocloud's opener reads the environment once
// per process and leaves Azure's long repeating on.
func openAzure(ctx context.Context, u *url.URL) (Store, error) {
	account, err := azureAccount(u.Query())
	if err != nil {
		return nil, err
	}
	client, err := azureClient(account, u.Host)
	if err != nil {
		return nil, err
	}
	bucket, err := azureblob.OpenBucket(ctx, client, nil)
	if err != nil {
		return nil, err
	}
	return &cloudStore{
		reads:  bucket,
		writes: bucket,
		answer: azureAnswer,
		once: func(ctx context.Context) context.Context {
			return policy.WithRetryOptions(ctx, policy.RetryOptions{MaxRetries: -1})
		},
		version: func(r *gcblob.Reader) string {
			var out azblob.DownloadStreamResponse
			if r.As(&out) && out.ETag != nil {
				return string(*out.ETag)
			}
			return ""
		},
		replace: func(ctx context.Context, key string, data []byte, version string) error {
			_, err := client.NewBlockBlobClient(key).Upload(ctx, streaming.NopCloser(bytes.NewReader(data)), &blockblob.UploadOptions{
				AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: to.Ptr(azcore.ETag(version))}},
			})
			return err
		},
	}, nil
}

// azureAccount is which account, and where its blobs are: the environment's
// settings, which the query overrides.
func azureAccount(query url.Values) (*azureblob.ServiceURLOptions, error) {
	where := azureblob.NewDefaultServiceURLOptions()
	if given := query.Get("storage_account"); given != "" {
		where.AccountName = given
	}
	if where.AccountName == "" {
		return nil, errors.New("no account; add ?storage_account=…, or set AZURE_STORAGE_ACCOUNT")
	}
	moved := query.Get("domain") != "" || query.Get("protocol") != "" || where.AccountName != os.Getenv("AZURE_STORAGE_ACCOUNT")
	if moved && where.SASToken != "" {
		// The token is part of each request, so it must not follow a URL to
		// whatever server that names.
		return nil, errors.New("storage_account=, domain= and protocol= cannot be used with AZURE_STORAGE_SAS_TOKEN; set AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_DOMAIN and AZURE_STORAGE_PROTOCOL")
	}
	if given := query.Get("domain"); given != "" {
		where.StorageDomain = given
	}
	if given := query.Get("protocol"); given != "" {
		where.Protocol = given
	}
	for name, flag := range map[string]*bool{"cdn": &where.IsCDN, "localemu": &where.IsLocalEmulator} {
		if given := query.Get(name); given != "" {
			on, err := strconv.ParseBool(given)
			if err != nil {
				return nil, fmt.Errorf("%s=%s; say true or false", name, given)
			}
			*flag = on
		}
	}
	return where, nil
}

// azureClient takes, in this order, the account's key, a token that is already in
// the service's URL, a connection string, and whatever identity the machine has.
func azureClient(where *azureblob.ServiceURLOptions, name string) (*container.Client, error) {
	service, err := azureblob.NewServiceURL(where)
	if err != nil {
		return nil, err
	}
	at, err := url.JoinPath(string(service), name)
	if err != nil {
		return nil, err
	}
	opts := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Telemetry: policy.TelemetryOptions{ApplicationID: "quarry"},
		Retry:     policy.RetryOptions{MaxRetries: 2, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: time.Second},
	}}
	connection := os.Getenv("AZURE_STORAGE_CONNECTION_STRING")
	if connection == "" {
		connection = os.Getenv("AZURE_STORAGEBLOB_CONNECTIONSTRING")
	}
	key := os.Getenv("AZURE_STORAGE_KEY")
	switch {
	case key != "":
		shared, err := azblob.NewSharedKeyCredential(where.AccountName, key)
		if err != nil {
			return nil, fmt.Errorf("AZURE_STORAGE_KEY: %w", err)
		}
		return container.NewClientWithSharedKeyCredential(at, shared, opts)
	case os.Getenv("AZURE_STORAGE_SAS_TOKEN") != "":
		return container.NewClientWithNoCredential(at, opts)
	case connection != "":
		return container.NewClientFromConnectionString(connection, name, opts)
	}
	identity, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("%w; set AZURE_STORAGE_KEY, or run where Azure gives an identity", err)
	}
	return container.NewClient(at, identity, opts)
}

func azureAnswer(err error) (status int, code string) {
	var response *azcore.ResponseError
	if errors.As(err, &response) {
		return response.StatusCode, response.ErrorCode
	}
	return 0, ""
}
