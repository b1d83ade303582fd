#!/usr/bin/env bash
# launch/run.sh [configs/NAME.py[:SIZE] | RUN/config.json] [--config.FIELD=VALUE ...]
# On a fresh machine: installs, runs NAME (default: quickstart) into runs/NAME[-SIZE], prints the
# table and the report's path. The same command again continues where it was interrupted.
# RUN/config.json continues that run; that of published results (results/NAME) runs into runs/NAME.
# WORKDIR=DIR puts the run elsewhere.
source "$(dirname "$0")/environment.sh" plots,test

config=configs/quickstart.py
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then config=$1; shift; fi
file=${config%%:*} size=
[ "$file" = "$config" ] || size=-${config#*:}
if [ ! -f "$file" ]; then
  echo "error: config '$config' does not exist; legal are $(ls configs/*.py | tr '\n' ' ')" >&2
  exit 2
fi
own=runs/$(basename "$file" .py)$size
if [ "${config%.json}" != "$config" ]; then
  own=$(dirname "$config")
  # Published results are no workdir: a run of their config goes beside the others.
  [ -d "$own/stages" ] || own=runs/$(basename "$(cd "$own" && pwd)")
fi
workdir=${WORKDIR:-$own}
exec "$python" -m compgen_jax.main --config="$config" --workdir="$workdir" "$@"
