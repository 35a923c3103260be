#!/usr/bin/env bash
# Makes the base image of model images where none can be pulled: Debian bookworm with python3, its venv module, the
# certificate authorities and the OpenMP runtime that lightgbm's wheel needs. Needs root and an engine.
#
#   infra/images/base.sh [IMAGE]      IMAGE: shipway-base:bookworm unless given; nothing is done where the engine has it
#
# DEBIAN_MIRROR: where Debian's packages come from; unset: debootstrap's own default.
set -euo pipefail

image=${1:-shipway-base:bookworm}
if docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image is there"
  exit 0
fi
docker version >/dev/null 2>&1 || { echo "base image: no Docker engine answers; start it and run again" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "base image: debootstrap needs root; run again with sudo" >&2; exit 1; }
if ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "→ making $image with debootstrap"
include=python3,python3-venv,ca-certificates,libgomp1
if ! debootstrap --variant=minbase --include="$include" bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/log" 2>&1; then
  tail -20 "$work/log" >&2
  echo "base image: debootstrap failed; is the mirror reached? DEBIAN_MIRROR names another" >&2
  exit 1
fi

# What no container needs; licences (usr/share/doc/*/copyright) and the package database (for SBOMs) stay.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/log/*
rm -rf "$root"/usr/share/{man,info,locale,lintian}/* "$root"/tmp/* "$root"/debootstrap
find "$root"/usr/share/doc -mindepth 2 ! -name copyright ! -type d -delete
find "$root"/usr/share/doc -mindepth 1 -type d -empty -delete
rm -f "$root"/etc/machine-id "$root"/etc/resolv.conf "$root"/etc/hostname

tar -C "$root" --numeric-owner --one-file-system -c . | docker import --change 'CMD ["/bin/sh"]' - "$image" >/dev/null
echo "$image: $(docker image inspect --format '{{.Size}}' "$image") bytes"
