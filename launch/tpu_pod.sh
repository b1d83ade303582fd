#!/usr/bin/env bash
# launch/tpu_pod.sh CONFIG --tpu=NAME --workdir=DIR [--zone=ZONE] [--project=ID]
#     [--checkout=DIR] [--install] [--dry-run] [-- FLAG…]
# One run on all workers of a TPU VM, a process each. What they say comes here as it is said;
# process 0 alone speaks.
#   --tpu, --zone, --project   as gcloud takes them; default: $TPU_NAME, $TPU_ZONE, $TPU_PROJECT,
#                              else gcloud's own
#   --workdir                  a folder that all workers share (a network disk, a mounted bucket);
#                              default: $WORKDIR
#   --checkout                 where the code lies on every worker; default: $CHECKOUT, else
#                              compgen_jax in the home folder
#   --install                  makes .venv there first
#   --dry-run                  prints the command, and does nothing
#   -- FLAG…                   goes to the run, such as --config.seed=1
# The same command again continues. Ctrl-C here ends the connection, not the run.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
case "${1:-}" in '' | -h | --help) sed -n '2,16s/^# //p' "$0"; exit 0 ;; esac

config='' tpu=${TPU_NAME:-} zone=${TPU_ZONE:-} project=${TPU_PROJECT:-}
workdir=${WORKDIR:-} checkout=${CHECKOUT:-compgen_jax}
dry='' install=''
flags='--tpu --zone --project --workdir --checkout --install --dry-run'
while [ $# -gt 0 ]; do
  case $1 in
    --tpu=*) tpu=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --checkout=*) checkout=${1#*=} ;;
    --install) install=1 ;;
    --dry-run) dry=1 ;;
    --) shift; break ;;
    -*) fail "no such flag as '$1'; legal are $flags, and -- before flags of the run" ;;
    *) [ -z "$config" ] || fail "stray argument '$1'; legal is one CONFIG"; config=$1 ;;
  esac
  shift
done
[ -n "$config" ] || fail "CONFIG is missing; legal is a file of configs/"
[ -n "$tpu" ] || fail "--tpu is missing; legal is the name of a TPU VM"
[ -n "$workdir" ] || fail "--workdir is missing; legal is a folder that all workers share"

remote="cd $(printf %q "$checkout") &&"
if [ -n "$install" ]; then
  remote+=' { [ -x .venv/bin/python ] || python3 -m venv .venv; } &&'
  remote+=" .venv/bin/python -m pip install --quiet --editable '.[tpu,plots]' &&"
fi
remote+=$(printf ' %q' .venv/bin/python -u -m compgen_jax.main "--config=$config" \
  "--workdir=$workdir" --config.run.distributed=on "$@")
command=(gcloud compute tpus tpu-vm ssh "$tpu" --worker=all
  ${zone:+"--zone=$zone"} ${project:+"--project=$project"} "--command=$remote")
if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
exec "${command[@]}"
