#!/usr/bin/env bash
# Makes the base images that Dockerfile and docker-compose.yml name, for a machine that cannot pull any: from Debian's
# packages and the Rust toolchain installed here. For trials alone; what is there under these names already stays.
#
#   deploy/images/stand-ins.sh          as root; needs debootstrap, docker with buildx, rustc
#   DEBIAN_MIRROR=http://...            another mirror
#
# They take what the official images take as far as docker-compose.yml uses it: POSTGRES_USER, _DB, _PASSWORD_FILE;
# RABBITMQ_DEFAULT_USER, _PASS; the same paths, users and entrypoints.
set -euo pipefail
cd "$(dirname "$0")"

missing() { ! docker image inspect "$1" > /dev/null 2>&1; }

debian() {
    local root
    root=$(mktemp -d)
    trap 'rm -rf "$root"' RETURN
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
    # Builds go out by whatever authorities this machine trusts, a proxy's included.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    # As the official image has it: no package starts anything, and none stays in a cache.
    printf 'APT::Keep-Downloaded-Packages "false";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' \
        > "$root/etc/apt/apt.conf.d/docker-clean"
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    tar --create --directory "$root" . | docker import --change 'CMD ["bash"]' - debian:trixie-slim
}

if missing debian:trixie-slim; then debian; fi
if missing rust:1-trixie; then
    docker build --tag rust:1-trixie --build-context "toolchain=$(rustc --print sysroot)" rust
fi
if missing postgres:17; then docker build --tag postgres:17 postgres; fi
if missing rabbitmq:4; then docker build --tag rabbitmq:4 rabbitmq; fi
if missing prom/prometheus:v2.53.5; then docker build --tag prom/prometheus:v2.53.5 prometheus; fi
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -E '^(debian|rust|postgres|rabbitmq|prom/prometheus):'
