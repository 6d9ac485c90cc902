package engine

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What an annotation is of.
const (
	ofManifest           = "manifest"
	ofManifestDescriptor = "manifest-descriptor"
	ofIndex              = "index"
	ofIndexDescriptor    = "index-descriptor"
)

// annotationKey says what an annotation is of.
type annotationKey struct {
	of       string
	platform string // "" is all
	key      string
}

// annotations are the annotations of a built image.
type annotations map[annotationKey]string

// The forms of an annotation, compiled when there is one.
var (
	annotationAttr = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)
	})
	annotationPrefix = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)
	})
)

// ParseAnnotation parses an annotation as buildx's --annotation has it,
// "[TYPE[PLATFORM][,TYPE...]:]KEY=VALUE", and adds it to the outputs' attributes.
func ParseAnnotation(text string, outputs []Output) error {
	attrs, value, err := annotationAttrs(text)
	for _, o := range outputs {
		for _, attr := range attrs {
			if o.isImage() {
				o.Attrs[attr] = value
			}
		}
	}
	return err
}

// annotationAttrs are the attributes of an output that are an annotation.
func annotationAttrs(text string) (attrs []string, value string, err error) {
	left, value, ok := strings.Cut(text, "=")
	if !ok {
		return nil, "", invalid("parse annotations: invalid annotation %q, expected key=value", text)
	}
	types, key, ok := strings.Cut(left, ":")
	if !ok {
		return []string{"annotation." + left}, value, nil
	}
	for one := range strings.SplitSeq(types, ",") {
		groups := annotationPrefix().FindStringSubmatch(one)
		if groups == nil {
			return nil, "", invalid("parse annotations: invalid annotation type %q, expected type and optional platform in square brackets", one)
		}
		of, platform := groups[1], groups[2]
		switch of {
		case ofManifest, ofManifestDescriptor, ofIndex, ofIndexDescriptor:
		default:
			return nil, "", invalid("parse annotations: unknown annotation type %q", of)
		}
		if platform != "" {
			if _, err := platforms.Parse(platform); err != nil {
				return nil, "", invalid("parse annotations: invalid platform %q: %v", platform, err)
			}
			platform = "[" + platform + "]"
		}
		attrs = append(attrs, fmt.Sprintf("annotation-%s%s.%s", of, platform, key))
	}
	return attrs, value, nil
}

// parseAnnotationKey parses the attribute of an output that is an annotation, and
// reports whether it is one.
func parseAnnotationKey(attr string) (annotationKey, bool, error) {
	groups := annotationAttr().FindStringSubmatch(attr)
	if groups == nil {
		return annotationKey{}, false, nil
	}
	k := annotationKey{of: groups[1], platform: groups[2], key: groups[3]}
	switch k.of {
	case "":
		k.of = ofManifest
	case ofManifest, ofManifestDescriptor, ofIndex, ofIndexDescriptor:
	default:
		return k, true, invalid("unrecognized annotation type %s", k.of)
	}
	if k.platform == "" {
		return k, true, nil
	}
	p, err := platforms.Parse(k.platform)
	if err != nil {
		return k, true, invalid("invalid platform %q: %v", k.platform, err)
	}
	k.platform = platforms.FormatAll(p)
	return k, true, nil
}

func parseAnnotations(attrs map[string]string) (annotations, error) {
	all := annotations{}
	for attr, value := range attrs {
		k, ok, err := parseAnnotationKey(attr)
		if err != nil {
			return nil, err
		}
		if ok {
			all[k] = value
		}
	}
	return all, nil
}

// check fails when an annotation is of what there will not be.
func (a annotations) check(built []ocispec.Platform, index, docker bool) error {
	for k := range a {
		if k.platform != "" {
			found := false
			for _, p := range built {
				found = found || platforms.FormatAll(p) == k.platform
			}
			if !found {
				return invalid("invalid annotation: no platform %s found in source", k.platform)
			}
		}
		if docker && k.of != ofManifest {
			return invalid(`cannot export annotations with "oci-mediatypes=false"`)
		}
		if !index && (k.of == ofIndex || k.of == ofIndexDescriptor) {
			return invalid("index annotations not supported for single platform export")
		}
	}
	return nil
}

// pick is the annotations of one thing; those that name the platform win. It is
// nil where there are none.
func (a annotations) pick(of string, platform *ocispec.Platform) map[string]string {
	var general, own map[string]string
	set := func(m *map[string]string, k, v string) {
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[k] = v
	}
	for k, v := range a {
		switch {
		case k.of != of:
		case k.platform == "" || of == ofIndex || of == ofIndexDescriptor:
			set(&general, k.key, v)
		case platform != nil && k.platform == platforms.FormatAll(*platform):
			set(&own, k.key, v)
		}
	}
	if general == nil {
		return own
	}
	maps.Copy(general, own)
	return general
}
