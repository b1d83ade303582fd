#!/usr/bin/env bash
# launch/test.sh [pytest arguments]: on a fresh machine, installs, checks the style and runs the
# tests; with -m '' the slow ones too.
case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0" && exit ;; esac
source "$(dirname "$0")/environment.sh" plots,test
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv/jax_cache}
"$python" -m ruff check --quiet --config .ci/ruff.toml .
"$python" -m ruff format --check --quiet --config .ci/ruff.toml .
# Two at a time, a file at a time: most of the time goes into compilers, which leave a core idle.
# (`-n 0`: one after the other.)
exec "$python" -m pytest tests -q -n 2 --dist loadfile -m 'not slow' "$@"
