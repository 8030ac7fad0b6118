#!/usr/bin/env python3
"""Draw the history of a store: one page, a row for every job, a bar for every run.

    python3 examples/timeline.py > timeline.html
    python3 examples/timeline.py --since 7d --id 'backup-*' > week.html

The page is one file with an SVG picture in it: no script, nothing from elsewhere. Mail it, or put it anywhere.
Point at a bar to see how that run went, at an id to see the command.
"""
import argparse
import html
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import nodejobs  # noqa: E402

WIDTH, LEFT, RIGHT, ROW, TOP, BAR = 1200, 250, 140, 26, 34, 16  # pixels
LEAST = 4  # pixels of the shortest bar: what lasted a second in a year is to be seen as well
TICKS = 8  # at most
STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
         86400, 2 * 86400, 7 * 86400, 14 * 86400, 28 * 86400, 91 * 86400, 365 * 86400, 3650 * 86400]
# What went well is drawn first, and what did not on top of it: where bars are dense, trouble is seen.
STATUSES = ["queued", "finished", "starting", "running", "stopping", "stopped", "lost", "failed_start", "failed",
            "unknown"]

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>nodejobs: %(title)s</title>
<style>
:root { --back: #f6f7f9; --front: #fff; --text: #1c2330; --dim: #667085; --line: #e2e6ec; --stripe: #f6f7f9;
  --finished: #2f9e5b; --running: #2a7de1; --stopped: #b7791f; --failed: #d64545; --lost: #8e59c7; --unknown: #667085; }
@media (prefers-color-scheme: dark) { :root { --back: #12161d; --front: #1a202a; --text: #dfe5ee; --dim: #8e9aad;
  --line: #2b3442; --stripe: #1e2530; --finished: #55c583; --running: #5aa2f5; --stopped: #e0a84a; --failed: #f07178;
  --lost: #b58ae8; --unknown: #8e9aad; } }
body { margin: 0 auto; padding: 1.5em; max-width: %(width)dpx; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3em; margin: 0; }
p, ul { margin: .2em 0 1em; padding: 0; color: var(--dim); }
li { display: inline-block; margin-right: 1.4em; }
li::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .45em; border-radius: 2px;
  background: currentColor; }
li span { color: var(--text); }
svg { display: block; width: 100%%; height: auto; background: var(--front); border: 1px solid var(--line);
  border-radius: 8px; font: 13px system-ui, sans-serif; }
text { fill: var(--text); }
.dim { fill: var(--dim); font-size: 12px; }
.grid { stroke: var(--line); }
.stripe { fill: var(--stripe); }
.bar { fill: currentColor; stroke: var(--front); stroke-width: .6; }
.bar:hover { stroke: var(--text); stroke-width: 1.5; }
.queued { color: var(--unknown); } .starting, .running, .stopping { color: var(--running); }
.starting.bar, .running.bar, .stopping.bar { fill-opacity: .6; }
.finished { color: var(--finished); } .failed, .failed_start { color: var(--failed); }
.stopped { color: var(--stopped); }
.lost { color: var(--lost); } .unknown { color: var(--unknown); }
.failed_start.bar, .queued.bar { fill-opacity: .2; stroke: currentColor; stroke-width: 1.2; }
li.failed_start::before, li.queued::before { background: none; box-shadow: inset 0 0 0 1.5px; }
</style>
<h1>%(title)s</h1>
<p>%(summary)s</p>
<ul>%(legend)s</ul>
%(picture)s
</html>
"""


def shown(text):
    """Make a stranger's text fit to be part of a page."""
    return html.escape(nodejobs.printable(str(text)))


def cut(text, length):
    text = nodejobs.printable(text)
    return html.escape(text if len(text) <= length else text[:length - 1] + "\u2026")


def span_of(record, now):
    """Return when a run began and ended, in seconds since 1970, as well as is known; None if nothing is.

    What is queued has not begun; its bar is the time that it has waited.
    """
    waits = record.queued_at if record.status == "queued" else None
    begin = nodejobs.epoch_time(waits or record.started_at) or nodejobs.epoch_time(record.last_update)
    if begin is None:
        return None
    if record.status is not None and not record.ended:
        return begin, max(now, begin)
    return begin, begin + max(record.duration or 0.0, 0.0)  # by the clock that nobody sets


def ticks(begin, end):
    """Yield (time, label) at round local times."""
    step = next((step for step in STEPS if (end - begin) / step <= TICKS), STEPS[-1])
    pattern = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%Y-%m-%d"
    number, day = int(begin // step) - 86400 // step - 1, None
    while number * step < end + 86400:
        moment = number * step
        moment -= time.localtime(max(moment, 0)).tm_gmtoff  # this many seconds of local time, not of UTC
        number += 1
        if begin <= moment <= end:
            today = time.strftime("%Y-%m-%d", time.localtime(moment))
            label = time.strftime(pattern, time.localtime(moment))
            yield moment, label if step >= 86400 or today == day else "%s %s" % (today[5:], label)
            day = today


def told(record):
    """Say in a few lines how a run went."""
    status = (record.status or "unknown").replace("_", " ")
    lines = ["%s, run %s: %s" % (record.self_id, record.run, status), record.error,
             "queued " + nodejobs.local_time(record.queued_at) if record.queued_at else None,
             "started " + nodejobs.local_time(record.started_at) if record.started_at else None,
             "took " + nodejobs.human_seconds(record.duration) if record.duration is not None else None]
    return "\n".join([shown(line) for line in lines if line])


def picture(rows, begin, end):
    """Return the SVG of rows [(newest record, [(record, its span)])]."""
    room = WIDTH - LEFT - RIGHT
    height = TOP + ROW * len(rows) + 10

    def place(moment):
        return LEFT + room * (moment - begin) / (end - begin)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d">' % (WIDTH, height)]
    out += ['<rect class="stripe" x="0" y="%d" width="%d" height="%d"/>' % (TOP + ROW * number, WIDTH, ROW)
            for number in range(0, len(rows), 2)]
    for moment, label in ticks(begin, end):
        out.append('<path class="grid" d="M%.1f %dV%d"/>' % (place(moment), TOP - 6, height - 6))
        out.append('<text class="dim" x="%.1f" y="20" text-anchor="middle">%s</text>' % (place(moment), label))
    for number, (newest, runs) in enumerate(rows):
        top = TOP + ROW * number
        out.append('<g><title>%s\n%s</title><circle class="bar %s" cx="16" cy="%d" r="5"/>' % (
            shown(newest.self_id), shown(nodejobs.command_text(newest.command)), newest.status or "unknown",
            top + ROW // 2))
        out.append('<text x="28" y="%d">%s</text></g>' % (top + 18, cut(newest.self_id, 30)))
        for record, (first, last) in sorted(runs, key=lambda run: STATUSES.index(run[0].status or "unknown")):
            left, right = place(max(first, begin)), place(last)
            out.append('<rect class="bar %s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2">' % (
                record.status or "unknown", min(left, WIDTH - RIGHT - LEAST), top + (ROW - BAR) // 2,
                max(right - left, LEAST), BAR))
            out.append("<title>%s</title></rect>" % told(record))
        took = sorted(record.duration for record, _ in runs if record.duration is not None and record.ended)
        out.append('<text class="dim" x="%d" y="%d">%d run%s%s</text>' % (
            WIDTH - RIGHT + 12, top + 18, len(runs), "" if len(runs) == 1 else "s",
            ", ~" + nodejobs.human_seconds(took[len(took) // 2]) if took else ""))
    return "\n".join(out + ["</svg>"])


def page(jobs, glob=None, since=None):
    """Return the page, as text."""
    now = time.time()
    rows, runs = [], []
    for job_id, newest in jobs.list_status({"self_id": glob} if glob else None).items():
        spans = [(record, span_of(record, now)) for record in jobs.history(job_id)]
        spans = [(record, span) for record, span in spans if span and (since is None or span[1] >= now - since)]
        if spans:
            rows.append((newest, spans))
            runs += spans
    rows.sort(key=lambda row: row[1][0][1])
    begin = min([span[0] for _, span in runs], default=now - 60)
    end = max([span[1] for _, span in runs], default=now)
    if since is not None:
        begin = max(begin, now - since)
    margin = max((end - begin) * 0.01, 0.5)
    legend = []
    for status in STATUSES:
        number = sum((record.status or "unknown") == status for record, _ in runs)
        if number:
            legend.append('<li class="%s"><span>%s: %d</span>' % (status, status.replace("_", " "), number))
    return PAGE % {
        "title": shown("what ran on %s" % os.uname().nodename), "width": WIDTH, "legend": "".join(legend),
        "summary": shown("%d job%s, %d run%s, from %s to %s; in %s" % (
            len(rows), "" if len(rows) == 1 else "s", len(runs), "" if len(runs) == 1 else "s",
            nodejobs.local_time(nodejobs.iso_time(begin)), nodejobs.local_time(nodejobs.iso_time(end)), jobs.db_path)),
        "picture": picture(rows, begin - margin, end + margin) if rows else "<p>Nothing ran.</p>"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", help="where the jobs are kept; by default where nodejobs.py keeps them")
    parser.add_argument("--id", metavar="GLOB", help="only ids like 'backup-*'")
    parser.add_argument("--since", metavar="AGE", type=nodejobs.duration,
                        help="only what ran within the last 90m, 6h, 7d")
    options = parser.parse_args()
    sys.stdout.buffer.write(page(nodejobs.Jobs(options.db), options.id, options.since).encode("utf-8"))


if __name__ == "__main__":
    main()
