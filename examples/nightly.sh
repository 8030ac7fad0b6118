#!/bin/sh
# Every night: fetch, then build every target, two at a time, then deploy, if all of them are well.
#
#     sh examples/nightly.sh DIRECTORY TARGET...
#
# DIRECTORY has fetch.sh, build.sh and deploy.sh of yours; the jobs are kept in DIRECTORY/jobs, each with its log.
# It says nothing and exits with 0 when all is well. Else it tells how every step went, and exits with the exit code of
# the first that failed; so cron mails a night that failed, and no other. In a crontab, with nodejobs in your home:
#
#     30 2 * * *  sh nodejobs/examples/nightly.sh site debug release manual
#     @reboot     NODEJOBS_DB=site/jobs python3 nodejobs/nodejobs.py queue start
#
# No step needs this script once it is queued. The second line goes on after a reboot: what was queued is started when
# it is due; what ran then is lost, and what was to start only if that finished never starts, and says so.
set -eu

[ $# -ge 2 ] || { echo "usage: nightly.sh DIRECTORY TARGET..." >&2; exit 2; }
nodejobs=$(cd "$(dirname "$0")/.." && pwd)/nodejobs.py
python=${PYTHON:-python3}
cd "$1"
shift
NODEJOBS_DB=$PWD/jobs
export NODEJOBS_DB

# With 126 and 127 a step could not be started, for example because fetch has failed already: its record tells that.
# What else goes wrong (125: the step of the night before still runs) ends the script, and says why.
step() {
    "$python" "$nodejobs" run --startsecs 0 --timeout 2h "$@" >/dev/null || [ $? -ge 126 ]
}

builds='' needed=''
for target; do
    builds="$builds build-$target" needed="$needed --after-ok build-$target"
done

# What a night before has left undone comes first. An id that is new tonight is no reason to stop.
"$python" "$nodejobs" wait fetch $builds deploy >/dev/null 2>&1 || :

step --id fetch -- ./fetch.sh
for target; do
    step --id "build-$target" --queue build:2 --after-ok fetch -- ./build.sh "$target"
done
step --id deploy $needed -- ./deploy.sh

report=$("$python" "$nodejobs" wait fetch $builds deploy 2>&1) || {
    code=$?
    printf '%s\n' "$report"
    exit $code
}
