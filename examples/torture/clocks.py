"""The wall clock is set while jobs run: durations, timeouts, graces, freshness and pruning must not mind.

The clock is a small preloaded C library that adds a number of seconds, read from a file at every look, to
the real-time clock and to no other. (libfaketime 0.9.10 breaks Python's sleep where it leaves the monotonic
clock alone: its issue 426.)
"""
import json
import os
import pathlib
import shutil
import subprocess
import time

import nodejobs
from harness import ACTIVE, Missing, attack, cli, untidy, wrong

LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = "", *path = getenv("CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && clock == CLOCK_REALTIME) now->tv_sec += offset();
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    if (!result) now->tv_sec += offset();
    return result;
}
time_t time(time_t *now) {
    struct timespec here;
    clock_gettime(CLOCK_REALTIME, &here);
    if (now) *now = here.tv_sec;
    return here.tv_sec;
}
"""


class Clock:
    """A command line whose wall clock can be set, also for what is already running."""

    def __init__(self, store, library, path):
        self.store, self.file = str(store), pathlib.Path(path)
        self.env = {"LD_PRELOAD": library, "CLOCK_OFFSET": str(path)}
        self.problems = []
        self.set(0)

    def set(self, days):
        new = self.file.with_suffix(".new")
        new.write_text("%d" % (days * 86400))
        new.rename(self.file)  # at once: a reader must not find half of it

    def cli(self, *words, codes=(0,)):
        done = cli(self.store, *words, env=self.env)
        self.problems += ["`%s`: %s" % (" ".join(map(str, words)), text) for text in untidy(done, codes)]
        return done.stdout

    def record(self, job_id="a"):
        try:
            return json.loads(self.cli("status", "--json", job_id))
        except ValueError:
            return {}


def while_it_runs(clock, days):
    """Set the clock while a job runs: its duration is right, and all verbs work."""
    fifo = pathlib.Path(str(clock.file) + ".fifo")
    os.mkfifo(str(fifo))
    before = time.monotonic()
    clock.cli("run", "--id", "a", "--timeout", "60", "-c", "read go < %s; exit 3" % fifo)
    began = time.monotonic()
    clock.set(days)
    running = clock.record()
    clock.problems += wrong(running, status="running") + ["running for %r s" % running.get("duration")] * (
        not 0 <= (running.get("duration") or -1) < 30)
    clock.cli("wait", "--timeout", "0.1", "a", codes=(124,))
    least = time.monotonic() - began
    fifo.write_text("go\n")
    clock.cli("wait", "--timeout", "60", "a", codes=(3,))
    most = time.monotonic() - before
    ended = clock.record()
    clock.problems += wrong(ended, status="failed", exit_code=3) + ["it took %r s" % ended.get("duration")] * (
        not least - 0.001 <= (ended.get("duration") or -1) <= most)
    for words in (["list"], ["list", "--json"], ["history", "a"], ["status", "a"], ["logs", "a"]):
        if "a" not in clock.cli(*words) and words[0] != "logs":
            clock.problems.append("`%s` does not show it" % " ".join(words))


def timed_out(clock, days):
    clock.cli("run", "--id", "a", "--timeout", "0.7", "--", "sleep", "300")
    clock.set(days)
    clock.cli("wait", "--timeout", "60", "a", codes=range(1, 124 + 32))
    ended = clock.record()
    clock.problems += wrong(ended, status="failed") + ["it took %r s" % ended.get("duration")] * (
        not 0.7 <= (ended.get("duration") or -1) < 30)


def stopped(clock, days):
    clock.cli("run", "--id", "a", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    clock.set(days)
    clock.cli("stop", "--grace", "0.3", "a")
    clock.problems += wrong(clock.record(), status="stopped", signal="SIGKILL")


def fresh(clock, days):
    """A success of a time that is yet to come is not fresh for ever."""
    clock.cli("run", "--id", "a", "--", "true")
    clock.cli("run", "--id", "a", "--fresh", "1h", "--", "true")
    clock.problems += wrong(clock.record(), run=1)
    clock.set(days)
    clock.cli("run", "--id", "a", "--fresh", "1h", "--", "true")
    clock.problems += wrong(clock.record(), run=2, status="finished")


def pruned(clock, days):
    """What has just ended is not old, whichever way the clock was wrong."""
    clock.cli("run", "--id", "before", "--wait", "--", "true")
    clock.cli("run", "--id", "across", "--", "sleep", "0.5")
    clock.set(days)
    clock.cli("run", "--id", "after", "--wait", "--", "true")
    clock.cli("wait", "before", "across", "after")
    names = ("before", "across", "after")
    clock.cli("prune", "--older-than", "1h")
    gone = [name for name in names if name not in clock.cli("list")]
    clock.set(0)
    clock.cli("prune", "--older-than", "1h")
    later = [name for name in names if name not in clock.cli("list") and name not in gone]
    clock.problems += ["pruned though young: %s" % name for name in gone]
    clock.problems += ["pruned though young, with the clock right again: %s" % name for name in later]


@attack("truth: the clock is set back")
def clock_set(room):
    if not shutil.which("gcc"):
        raise Missing("gcc")
    library = str(room.path / "clock.so")
    (room.path / "clock.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, str(room.path / "clock.c")], check=True)
    cases = [(blow, days) for blow in (while_it_runs, timed_out, stopped, fresh, pruned)
             for days in (-3, -20000, -1, 3)]
    clock = Clock(room.path / "proof", library, room.path / "clock-proof")
    clock.set(-1000)
    clock.cli("run", "--id", "a", "--wait", "--", "true")
    yield "the attack is real", [] if clock.record()["ended_at"] < nodejobs.iso_time(time.time() - 900 * 86400) else [
        "the clock cannot be set: %s" % clock.record()["ended_at"]]
    for number, (blow, days) in enumerate(room.pick(cases, 5)):
        clock = Clock(room.path / str(number), library, room.path / ("clock-%d" % number))
        try:
            blow(clock, days)
        finally:
            for record in nodejobs.Jobs(clock.store).list_status({"status": list(ACTIVE)}).values():
                nodejobs.Jobs(clock.store).stop(record.self_id, grace=0)
        yield "%s, %+d days" % (blow.__name__.replace("_", " "), days), clock.problems
