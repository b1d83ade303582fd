#!/usr/bin/env bash
# launch/bench.sh [--json FILE] [--shapes 64x2,128x4] [--repeats N] [--growth FILE.png] [--peer]
#     [--policy DIR] [--first_update] [--finding] [--scaling]
# On a fresh machine: installs, times every part of training and prints rates beside the
# matrix-product peak.
# What the flags measure: results/bench/README.md.
source "$(dirname "$0")/environment.sh" plots,test
exec "$python" -m compgen_jax.bench --config=configs/quickstart.py "$@"
