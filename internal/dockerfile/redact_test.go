package dockerfile

import (
	"strings"
	"testing"
)

func TestRedacted(t *testing.T) {
	const source = `ARG BASE=a TOKEN=ab"cd" OTHER
FROM ${BASE}
# kept
ENV API_TOKEN abc123 and more
ENV VERSION=1 \
    # a comment that goes
    TOKEN=a\ b \
    X="y z"
env VERSION 2
LABEL token='a b'
ONBUILD ENV TOKEN="a b" V=1
ARG TOKEN
ARG EMPTY_TOKEN=
RUN <<EOF
ENV TOKEN a
EOF
ENV TOKEN last`
	const want = `ARG BASE=a TOKEN=xxxxx OTHER
FROM ${BASE}
# kept
ENV API_TOKEN xxxxx
ENV VERSION=1 TOKEN=xxxxx X="y z"
env VERSION 2
LABEL token=xxxxx
ONBUILD ENV TOKEN=xxxxx V=1
ARG TOKEN
ARG EMPTY_TOKEN=
RUN <<EOF
ENV TOKEN a
EOF
ENV TOKEN xxxxx
`
	f, err := Parse("Dockerfile", []byte(source), "")
	if err != nil {
		t.Fatal(err)
	}
	secret := func(name string) bool { return strings.Contains(strings.ToUpper(name), "TOKEN") }
	if got := string(f.Redacted(secret, "xxxxx")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
