#!/usr/bin/env bash
# launch/test.sh [pytest arguments]: on a fresh machine, installs and runs the tests.
source "$(dirname "$0")/environment.sh" plots,test
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv/jax_cache}
exec "$python" -m pytest tests -q "$@"
