#!/usr/bin/env bash
# Installs the Debian packages that a purpose needs, when they are missing: scripts/deps.sh run|test|bench|deb …
#   run    what the master and the lab use      test   and the clients that the tests use
#   bench  and the servers that the benchmark measures against
#   deb    what makes Debian packages
set -euo pipefail

run=(build-essential ca-certificates iproute2 openssh-client procps util-linux
     mmdebstrap debian-archive-keyring squashfs-tools zstd xz-utils
     ipxe shim-signed grub-efi-amd64-signed
     qemu-system-x86 ipxe-qemu ovmf seabios dnsmasq-base)
test=("${run[@]}" bc busybox-static cpio curl debhelper iputils-arping isc-dhcp-client isc-dhcp-relay
      kea-admin kmod libnfs-utils nftables openssh-server python3 tftp-hpa atftp udhcpc)
bench=("${test[@]}" kea-dhcp4-server nfs-ganesha nfs-ganesha-vfs strace tftpd-hpa)
deb=(build-essential debhelper)

packages=()
for purpose in "$@"; do
    case $purpose in
        run|test|bench|deb) declare -n set=$purpose; packages+=("${set[@]}") ;;
        *) echo "deps.sh: run, test, bench or deb, not \`$purpose'" >&2; exit 2 ;;
    esac
done

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done

rust=$(cargo --version 2>/dev/null | cut -d ' ' -f 2 || true)
printf '1.95\n%s\n' "$rust" | sort --version-sort --check=quiet || {
    told=${rust:+cargo $rust is too old}
    echo "deps.sh: ${told:-no cargo here}: install Rust 1.95 or later from https://rustup.rs" >&2
    exit 1
}
[ ${#missing[@]} -eq 0 ] && exit 0

echo "Installing ${missing[*]}"
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "deps.sh: as root, or with sudo here, run: apt-get install ${missing[*]}" >&2
        exit 1
    }
    sudo=(sudo)
fi
# A package's own service must not start here: the tests run what they need in networks of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
    "${sudo[@]}" chmod 755 $policy
    trap '"${sudo[@]}" rm -f $policy' EXIT
fi
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
