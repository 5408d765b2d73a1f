package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	gcaws "gocloud.dev/aws"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

func init() {
	providers["s3"] = provider{
		example: "s3://bucket?region=eu-west-1",
		options: []string{"region", "endpoint", "use_path_style", "profile", "role", "anonymous", "dualstack", "fips",
			"request_checksum_calculation", "response_checksum_validation"},
		open: openS3,
	}
}

func openS3(ctx context.Context, u *url.URL) (Store, error) {
	query := u.Query()
	endpoint, err := s3Endpoint(query.Get("endpoint"))
	if err != nil {
		return nil, err
	}
	pathStyle := endpoint != nil
	if given := query.Get("use_path_style"); given != "" {
		if pathStyle, err = strconv.ParseBool(given); err != nil {
			return nil, fmt.Errorf("use_path_style=%s; say true or false", given)
		}
	}
	query.Del("endpoint")
	query.Del("use_path_style")
	cfg, err := gcaws.V2ConfigFromURLParams(ctx, query)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Region != "":
	case endpoint != nil:
		cfg.Region = "us-east-1"
	default:
		return nil, errors.New("no region; add ?region=…, or set AWS_REGION")
	}
	cfg.HTTPClient = awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 64 })
	cfg.Credentials = explainCredentials(cfg.Credentials)

	client := func(retryer aws.Retryer) *s3.Client {
		return s3.NewFromConfig(cfg, func(o *s3.Options) {
			o.UsePathStyle = pathStyle
			o.BaseEndpoint = endpoint
			o.Retryer = retryer
			// Else the SDK writes a line to stderr for each multipart object.
			o.DisableLogOutputChecksumValidationSkipped = true
		})
	}
	reading := client(retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = 3
		o.MaxBackoff = time.Second
		o.RateLimiter = ratelimit.None
	}))
	opts := &s3blob.Options{RequestChecksumCalculation: cfg.RequestChecksumCalculation}
	reads, err := s3blob.OpenBucket(ctx, reading, u.Host, opts)
	if err != nil {
		return nil, err
	}
	writing := client(aws.NopRetryer{})
	writes, err := s3blob.OpenBucket(ctx, writing, u.Host, opts)
	if err != nil {
		return nil, err
	}
	s := &cloudStore{reads: reads, writes: writes, answer: s3Answer, looksFirst: true}
	s.startAfter = func(as func(any) bool, after string) {
		var in *s3.ListObjectsV2Input
		if as(&in) {
			in.StartAfter = aws.String(after)
		}
	}
	// The answer to a HEAD has no body, so it cannot say what is missing.
	s.vague = func(err error) bool {
		_, code := s3Answer(err)
		return code != "NoSuchKey"
	}
	s.prove = func(ctx context.Context) error {
		s.extra(Head)
		_, err := reading.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &u.Host})
		if status, _ := s3Answer(err); status == http.StatusForbidden {
			return nil // there, and not ours to list
		}
		return err
	}
	s.sign = s3Signer(reading, u.Host)
	s.version = func(r *blob.Reader) string {
		var out s3.GetObjectOutput
		if r.As(&out) {
			return aws.ToString(out.ETag)
		}
		return ""
	}
	s.replace = func(ctx context.Context, key string, data []byte, version string) error {
		_, err := writing.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &u.Host, Key: &key, Body: bytes.NewReader(data), IfMatch: &version, ContentType: aws.String("application/octet-stream"),
		})
		return err
	}
	return s, nil
}

// s3Signer signs all three methods; gocloud leaves out DELETE.
func s3Signer(client *s3.Client, name string) func(ctx context.Context, method, key string, ttl time.Duration) (string, error) {
	presign := s3.NewPresignClient(client)
	return func(ctx context.Context, method, key string, ttl time.Duration) (string, error) {
		lasting := s3.WithPresignExpires(ttl)
		var (
			signed *v4.PresignedHTTPRequest
			err    error
		)
		switch method {
		case http.MethodGet:
			signed, err = presign.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &name, Key: &key}, lasting)
		case http.MethodPut:
			signed, err = presign.PresignPutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: &key}, lasting)
		case http.MethodDelete:
			signed, err = presign.PresignDeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &name, Key: &key}, lasting)
		}
		if err != nil {
			return "", err
		}
		return signed.URL, nil
	}
}

func s3Endpoint(given string) (*string, error) {
	if given == "" {
		return nil, nil
	}
	e, err := url.Parse(given)
	if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" {
		return nil, fmt.Errorf("endpoint=%s; it must be like endpoint=http://127.0.0.1:7070", given)
	}
	return &given, nil
}

// explainCredentials marks the errors of a provider of credentials, which
// otherwise look like any network error.
func explainCredentials(from aws.CredentialsProvider) aws.CredentialsProvider {
	if from == nil || aws.IsCredentialsProvider(from, (*aws.AnonymousCredentials)(nil)) {
		return from
	}
	return aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		found, err := from.Retrieve(ctx)
		if err != nil && ctx.Err() == nil {
			err = &noCredentials{fmt.Errorf("no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role: %w", err)}
		}
		return found, err
	}))
}

func s3Answer(err error) (status int, code string) {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	return status, code
}
