#!/bin/sh
# Install a Python application in steps. Each step is a job with a log; what was done within the last
# day is not done again, so after a failure just run it again.
#
#     sh examples/install.sh /opt/myapp requests
#
# Look at it later with:  NODEJOBS_DB=/opt/myapp/jobs python3 nodejobs.py list
set -eu

prefix=${1:?say where to install, and what: install.sh DIRECTORY PACKAGE}
package=${2:?say what to install: install.sh DIRECTORY PACKAGE}
nodejobs=$(dirname "$0")/../nodejobs.py
python=${PYTHON:-python3}

mkdir -p "$prefix"
NODEJOBS_DB=$prefix/jobs
export NODEJOBS_DB

# `run --wait` exits with the step's own exit code and shows the last lines of its stderr;
# set -e ends the installation there.
step() {
    id=$1
    shift
    "$python" "$nodejobs" run --id "$id" --fresh 1d --timeout 10m --wait -- "$@"
}

step 1-environment "$python" -m venv "$prefix/venv"
step 2-package "$prefix/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
step 3-self-check "$prefix/venv/bin/python" -m pip check
echo "installed in $prefix/venv"
