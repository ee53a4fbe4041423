#!/usr/bin/env bash
# Packs Debian packages of what has been built, into a directory: scripts/deb.sh PROGRAM DIRECTORY.
# PROGRAM is `tesela`, of any profile; the rest is of `make node-binaries`.
set -euo pipefail
built=$(realpath "$1")
mkdir -p "$2"
packages=$(realpath "$2")
cd "$(dirname "$0")/.."

static=target/static/x86_64-unknown-linux-gnu/node
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
into=$packages/tesela-$version
rm -rf "$into"
mkdir -p "$into/files/man/tesela" "$into/files/man/node"

cp -r packaging/debian "$into/debian"
cp packaging/tesela.service "$into/debian/tesela.service"
cp packaging/tesela-member.service "$into/debian/tesela.tesela-member.service"
cp packaging/teselad.service "$into/debian/tesela-node.teselad.service"
cp packaging/tesela.sysusers packaging/tesela.tmpfiles "$into/debian/"
# Packages of the same content have the same date: that of the last change.
date=$(git -c safe.directory='*' log -1 --format=%cD 2>/dev/null || date -R)
cat > "$into/debian/changelog" <<END
tesela ($version) stable; urgency=medium

  * What is new is in /usr/share/doc/tesela-node/changelog.gz.

 -- tesela developers <tesela@localhost>  $date
END

files=$into/files
install -D -m 755 -t "$files/usr/bin" "$built"
install -D -m 755 -t "$files/usr/lib/tesela" "$static/stage1" "$static/teselad" "$static/tesela-tools"
complete() {
    mkdir -p "$files/usr/share/$2"
    "$built" completion "$1" > "$files/usr/share/$2/$3"
}
complete bash bash-completion/completions tesela
complete zsh zsh/vendor-completions _tesela
complete fish fish/vendor_completions.d tesela.fish
cp packaging/man/* "$files/man/node/"
pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
"$built" man "$pages"
cp "$pages"/man1/tesela*.1 "$files/man/tesela/"
cp -r README.md CHANGELOG.md configs "$files/"

(cd "$into" && dpkg-buildpackage --build=binary --no-sign)
rm -rf "$into" "$packages"/tesela_*.changes "$packages"/tesela_*.buildinfo
ls -l "$packages"/*.deb
