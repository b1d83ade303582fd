#!/usr/bin/env bash
# launch/bench.sh [--json FILE] [--shapes 64x2,128x4] [--repeats N]: rates beside the matrix-product peak of the same run.
source "$(dirname "$0")/environment.sh" plots,test
exec "$python" -m compgen_jax.bench --config=configs/quickstart.py "$@"
