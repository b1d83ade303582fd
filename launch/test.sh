#!/usr/bin/env bash
# launch/test.sh [pytest arguments]: on a fresh machine, installs, checks the style and runs the tests.
source "$(dirname "$0")/environment.sh" plots,test
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv/jax_cache}
"$python" -m ruff check --quiet --config .ci/ruff.toml .
"$python" -m ruff format --check --quiet --config .ci/ruff.toml .
exec "$python" -m pytest tests -q "$@"
