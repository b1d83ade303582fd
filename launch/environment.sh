# Sourced by the other launchers: makes .venv on the first call, installs the package with the
# extras named in $1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  {
    legal='legal is PYTHON=/path/to/python3.11 or newer'
    echo "error: PYTHON=$python is older than Python 3.11; $legal" >&2
    exit 2
  }

wanted="$1 $(cksum < setup.py)"
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
  echo "installing into .venv (once)" >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]" >&2
  echo "$wanted" > .venv/installed
fi
python=.venv/bin/python
