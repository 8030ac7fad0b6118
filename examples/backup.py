#!/usr/bin/env python3
"""Back up a directory with tar, unless the last backup is fresh.

    python3 examples/backup.py ~/documents /mnt/disk/documents.tar.gz

Call it from as many places as you like (cron, a login script, another program): within six hours of a
good backup that is still there it starts nothing, and two calls at once make one backup.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from nodejobs import JobRecord, Jobs  # noqa: E402

# The archive gets its name when it is complete, so a half-written one is never taken for a backup.
TAR = 'tar -czf "$2.part" -C "$1" . && mv "$2.part" "$2"'


def main(source, archive):
    jobs = Jobs()
    source, archive = os.path.abspath(source), os.path.abspath(archive)
    job_id = "backup %s to %s" % (source, archive)  # freshness goes by the id, so it says all that matters
    age = 6 * 3600 if os.path.exists(archive) else 0  # a record says that it was made, not that it is still there
    jobs.run(["sh", "-c", TAR, "backup", source, archive], job_id, fresh_for=age, timeout=3600, startsecs=0)
    record = jobs.wait(job_id)
    print("%s: %s (run %d, ended at %s)" % (job_id, record.status, record.run, record.ended_at))
    if record.status != JobRecord.Status.c_finished:
        sys.stderr.write("%s\n%s" % (record.error, jobs.job_logs(job_id)[1]))
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
