#!/bin/sh
# Install a Python application in steps. Each step is a job with a log; what was done within the last
# day is not done again, so after a failure just run it again.
#
#     sh examples/install.sh /opt/myapp requests
#
# Look at it later with:  NODEJOBS_DB=/opt/myapp/jobs python3 nodejobs.py list
set -eu

[ $# = 2 ] || { echo "usage: install.sh DIRECTORY PACKAGE" >&2; exit 2; }
prefix=$1
package=$2
nodejobs=$(dirname "$0")/../nodejobs.py
python=${PYTHON:-python3}

mkdir -p "$prefix"
NODEJOBS_DB=$prefix/jobs
export NODEJOBS_DB

# Freshness goes by the id alone, so the id names the package.
# `run --wait` exits with the step's own exit code and shows the last lines of its stderr;
# set -e ends the installation there.
step() {
    id=$1
    shift
    "$python" "$nodejobs" run --id "$id" --fresh 1d --timeout 10m --wait -- "$@"
}

step 1-environment "$python" -m venv "$prefix/venv"
step "2-package-$package" "$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
step "3-self-check-$package" "$prefix/venv/bin/python" -m pip check
echo "installed in $prefix/venv"
