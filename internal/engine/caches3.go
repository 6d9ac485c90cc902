package engine

import (
	"cmp"
	"strconv"
	"time"

	"strake/internal/bucketcache"
	"strake/internal/s3cache"
)

// s3 is a cache in a bucket of an S3 server, and its name there. What the attributes do not say
// the environment does, as AWS's programs read it.
func (c Cache) s3() (*bucketcache.Cache, string, error) {
	opts := s3cache.Options{
		Name: c.attr("bucket", "AWS_BUCKET", ""), Region: c.attr("region", "AWS_REGION", ""), Endpoint: c.Attrs["endpoint_url"],
		AccessKeyID: c.Attrs["access_key_id"], SecretAccessKey: c.Attrs["secret_access_key"], SessionToken: c.Attrs["session_token"],
		Touch: 24 * time.Hour,
	}
	switch {
	case opts.Name == "":
		return nil, "", invalid("s3 cache requires bucket, or AWS_BUCKET")
	case opts.Region == "":
		return nil, "", invalid("s3 cache requires region, or AWS_REGION")
	case (opts.AccessKeyID == "") != (opts.SecretAccessKey == ""):
		return nil, "", invalid("s3 cache requires both or none of access_key_id and secret_access_key")
	}
	if err := c.s3Requests(&opts); err != nil {
		return nil, "", err
	}
	bucket, err := s3cache.New(opts)
	if err != nil {
		return nil, "", invalid("%v", err)
	}
	prefix := c.Attrs["prefix"]
	return bucketcache.New(bucket, bucketcache.Options{
		Blobs: prefix + c.attr("blobs_prefix", "", "blobs/"), Manifests: prefix + c.attr("manifests_prefix", "", "manifests/"), ConfigType: cacheConfigType,
	}), cmp.Or(c.Attrs["name"], "buildkit"), nil
}

// s3Requests reads how requests are sent.
func (c Cache) s3Requests(opts *s3cache.Options) (err error) {
	if err := (Output{Attrs: c.Attrs}).parseBool("use_path_style", &opts.PathStyle); err != nil {
		return err
	}
	if text, ok := c.Attrs["touch_refresh"]; ok {
		if opts.Touch, err = time.ParseDuration(text); err != nil {
			return invalid("touch_refresh %q: %v", text, err)
		}
	}
	if text, ok := c.Attrs["retry_max_attempts"]; ok {
		if opts.Tries, err = strconv.Atoi(text); err != nil || opts.Tries < 1 {
			return invalid("retry_max_attempts must be a positive integer")
		}
	}
	switch c.Attrs["retry_mode"] {
	case "", "standard":
	case "adaptive":
		opts.Adaptive = true
	default:
		return invalid("retry_mode must be \"standard\" or \"adaptive\"")
	}
	none := true // no request has Accept-Encoding, whatever is wanted
	if err := (Output{Attrs: c.Attrs}).parseBool("disable_accept_encoding", &none); err != nil {
		return err
	}
	_, err = c.uploads()
	return err
}

// uploads are how many blobs are written at once; 0: as usual.
func (c Cache) uploads() (n int, err error) {
	text, ok := c.Attrs["upload_parallelism"]
	if !ok || c.Type != "s3" {
		return 0, nil
	}
	if n, err = strconv.Atoi(text); err != nil || n < 1 {
		return 0, invalid("upload_parallelism must be a positive integer")
	}
	return n, nil
}
