#!/bin/sh
# Install a Python application in steps. Each step is a job with a log; what was done within the last
# day, and is still there, is not done again, so after a failure just run it again.
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

# step ID LOOK COMMAND...: LOOK is a shell line that fails if what the step makes is not there. A record says that it
# was made, not that nobody has deleted it since. Then this step and all after it are done anew: nothing is fresh for
# 0 s, and yet two installations at once still share one run.
# `run --wait` exits with the step's own exit code and shows the last lines of its stderr;
# set -e ends the installation there.
fresh=1d
step() {
    id=$1
    eval "$2" > /dev/null 2>&1 || fresh=0s
    shift 2
    "$python" "$nodejobs" run --id "$id" --fresh "$fresh" --timeout 10m --wait -- "$@"
}

venv=$prefix/venv/bin/python
name=${package%%[!A-Za-z0-9._-]*}  # without a version
step 1-environment '"$venv" -m pip --version' "$python" -m venv "$prefix/venv"
step "2-package-$package" '"$venv" -m pip show "$name"' \
    "$venv" -m pip install --quiet --disable-pip-version-check "$package"
step "3-self-check-$package" : "$venv" -m pip check
echo "installed in $prefix/venv"
