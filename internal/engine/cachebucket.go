package engine

import (
	"cmp"
	"maps"
	"os"
	"path"
	"strings"

	"strake/internal/azblob"
	"strake/internal/bucketcache"
)

// attr is an attribute, what a variable of the environment has instead, or otherwise.
func (c Cache) attr(key, variable, otherwise string) string {
	if value, ok := c.Attrs[key]; ok {
		return value
	}
	return cmp.Or(os.Getenv(variable), otherwise)
}

// bucket is a cache of type s3 or azblob, and its names there, which semicolons part.
func (c Cache) bucket() (*bucketcache.Cache, string, error) {
	if c.Type == "s3" {
		return c.s3()
	}
	return c.azure()
}

// azure is a cache in a container of Azure's blob storage, and its names there. What the
// attributes do not say the environment does, as BuildKit reads it.
func (c Cache) azure() (*bucketcache.Cache, string, error) {
	opts := azblob.Options{
		AccountURL: c.attr("account_url", "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL", ""), Account: c.attr("account_name", "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME", ""),
		Key: c.attr("secret_access_key", "AZURE_STORAGE_KEY", ""), Container: c.attr("container", "BUILDKIT_AZURE_STORAGE_CONTAINER", "buildkit-cache"),
	}
	switch {
	case opts.AccountURL == "":
		return nil, "", invalid("azblob cache requires account_url, or BUILDKIT_AZURE_STORAGE_ACCOUNT_URL")
	case opts.Key == "":
		return nil, "", invalid("azblob cache requires secret_access_key, or AZURE_STORAGE_KEY")
	case opts.Container == "" || strings.Contains(opts.Container, "/"):
		return nil, "", invalid("azblob cache: %q is no name of a container", opts.Container)
	}
	container, err := azblob.New(opts)
	if err != nil {
		return nil, "", invalid("azblob cache: %v", err)
	}
	prefix := c.attr("prefix", "BUILDKIT_AZURE_STORAGE_PREFIX", "")
	return bucketcache.New(container, bucketcache.Options{
		Blobs: path.Join(prefix, c.attr("blobs_prefix", "", "blobs")) + "/", Manifests: path.Join(prefix, c.attr("manifests_prefix", "", "manifests")) + "/", ConfigType: cacheConfigType,
	}), cmp.Or(c.Attrs["name"], "buildkit"), nil
}

// perName are the caches that are read: of azblob one of each name, as BuildKit does, and of s3 the
// first.
func (c Cache) perName() (list []Cache) {
	if c.Type != "s3" && c.Type != "azblob" {
		return []Cache{c}
	}
	for name := range strings.SplitSeq(c.Attrs["name"], ";") {
		one := Cache{Type: c.Type, Attrs: maps.Clone(c.Attrs)}
		one.Attrs["name"] = name
		if list = append(list, one); c.Type == "s3" {
			break
		}
	}
	return list
}
