#!/bin/sh
# Patch many machines at once: start the same job on all of them, wait, and show where it failed, and why.
# Needs nothing there but ssh without a password, and Python; here it needs on_hosts.py beside it.
#
#     sh examples/fleet_patch.sh web1,web2,admin@db1
#     sh examples/fleet_patch.sh web1,web2 'sudo -n dnf -qy upgrade'
#
# The jobs do not hang on the connections. If one is lost, or you interrupt this, they go on; run it again, and
# it waits for the same runs. What was patched within six hours is not patched again.
#
# Look at it later with:  python3 examples/on_hosts.py web1,web2 status patch
set -u

[ $# = 1 ] || [ $# = 2 ] || { echo "usage: fleet_patch.sh HOST,... [SHELL-LINE]" >&2; exit 2; }
hosts=${1%,},  # with the last comma even one host is a list, so that the JSON is always an object by host
line=${2-'sudo -n apt-get -q update && sudo -n DEBIAN_FRONTEND=noninteractive apt-get -qy upgrade'}
python=${PYTHON:-python3}
on_hosts=$(dirname "$0")/on_hosts.py

# Each line begins with its host. Of what failed, the last lines of stderr are shown.
"$python" "$on_hosts" "$hosts" run --id patch --fresh 6h --timeout 1h --wait -c "$line"
code=$?
[ $code != 2 ] && [ $code != 130 ] || exit $code  # wrong usage; interrupted

"$python" "$on_hosts" "$hosts" status patch --json 2> /dev/null | "$python" -c '
import json, sys
records = json.load(sys.stdin)
failed = [host for host in records if not records[host] or records[host]["status"] != "finished"]
for host in failed:
    record = records[host] or {"status": "not reached", "error": None}
    print("FAILED  %s: %s" % (host, record["error"] or record["status"]))
print("%d of %d patched" % (len(records) - len(failed), len(records)))
'
exit $code
