#!/bin/sh
# Put nodejobs into your own package: copy the one file. Nothing else has to be installed, and jobs
# that were started run on without the copy.
#
#     sh examples/vendoring.sh /tmp/demo
set -eu

[ $# = 1 ] || { echo "usage: vendoring.sh DIRECTORY" >&2; exit 2; }
demo=$1
mkdir -p "$demo/myapp/_vendor"
cp "$(dirname "$0")/../nodejobs.py" "$demo/myapp/_vendor/nodejobs.py"
touch "$demo/myapp/__init__.py" "$demo/myapp/_vendor/__init__.py"

cat > "$demo/myapp/__main__.py" <<'END'
from myapp._vendor.nodejobs import Jobs

jobs = Jobs(db_path="jobs")
jobs.run("sleep 1; echo done", "later", startsecs=0)
print(jobs.get_status("later").status)
END

cd "$demo"
"${PYTHON:-python3}" -m myapp
"${PYTHON:-python3}" myapp/_vendor/nodejobs.py --db jobs wait later
