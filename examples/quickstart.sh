#!/bin/sh
# The main job, end to end: build an image, run it, push it to a Hub, pull it
# into a second store, run it there. Everything happens below one temporary
# directory, which is removed at the end.
set -eu

cd "$(dirname "$0")/.."
PATH="$PWD/bin:$PATH"
dir=$(mktemp -d)
hub=
finish() {
	[ -z "$hub" ] || kill "$hub" 2>/dev/null || true
	[ -z "$hub" ] || wait "$hub" 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "A base image, made from Debian's busybox-static"
if ! busybox=$(command -v busybox); then
	(cd "$dir" && { apt-get download busybox-static || { apt-get update && apt-get download busybox-static; }; } > apt.log 2>&1 &&
		dpkg-deb -x busybox-static_*.deb .) || { cat "$dir/apt.log" >&2; exit 1; }
	busybox=$(ls "$dir"/bin/busybox "$dir"/usr/bin/busybox 2>/dev/null | head -n 1)
fi
mkdir -p "$dir/base/bin" "$dir/base/etc" "$dir/base/tmp"
cp "$busybox" "$dir/base/bin/busybox"
for applet in sh cat chmod date echo ls; do ln -s busybox "$dir/base/bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$dir/base/etc/passwd"
tar -C "$dir/base" --owner=0 --group=0 -cf "$dir/base.tar" .

export STRAKE_ROOT="$dir/first"
run strake import --change 'CMD ["sh"]' "$dir/base.tar" busybox

say "Build examples/hello and run it"
run strake build -t hello examples/hello
run strake run --rm hello

say "Build it again: every step is cached"
run strake build -t hello examples/hello

say "A Hub on loopback; push to it"
strake-hub serve --addr 127.0.0.1:0 --data "$dir/hub" > "$dir/hub.log" 2>&1 &
hub=$!
addr=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	addr=$(grep -oE '127\.0\.0\.1:[0-9]+' "$dir/hub.log" | head -n 1)
	[ -z "$addr" ] || break
	sleep 0.1
done
[ -n "$addr" ] || { cat "$dir/hub.log" >&2; exit 1; }
run strake tag hello "$addr/team/hello:1.0"
run strake push "$addr/team/hello:1.0"

say "Pull it into a second, empty store and run it there"
export STRAKE_ROOT="$dir/second"
run strake pull "$addr/team/hello:1.0"
run strake run --rm "$addr/team/hello:1.0"
run strake images
run strake history "$addr/team/hello:1.0"

first=$(STRAKE_ROOT="$dir/first" strake images -q --no-trunc hello)
second=$(strake images -q --no-trunc "$addr/team/hello")
[ "$first" = "$second" ] || { echo "image IDs differ: $first, $second" >&2; exit 1; }

say "Built, run, pushed, pulled and run again: the same image, $first"
