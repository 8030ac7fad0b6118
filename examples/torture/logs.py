"""A log is cut, taken away and put back under those who follow it, at random moments."""
import contextlib
import os
import re
import subprocess
import threading
import time

import nodejobs
from harness import PYTHON, FILE, attack, cli, untidy, within

# Numbered lines of one length, each in one write, as fast as a busy log grows.
WRITER = """
import os, sys, time
for number in range(int(sys.argv[1])):
    os.write(1, b"%09d\\n" % number)
    if number % 20 == 0:
        time.sleep(0.001)
"""
CUT, GONE = "was cut; what follows is from its beginning", "is gone: somebody has removed or renamed "


def by_events(jobs):
    """Follow by bind; yield lines, and what was told in their place."""
    rest = ""
    for event in jobs.bind("a", from_beginning=True, poll_interval=0.005):
        if event.type in ("truncated", "gone"):
            yield "nodejobs: " + event.text
            rest = "" if event.type == "truncated" else rest
        elif event.type == "stdout":
            *lines, rest = (rest + event.text).split("\n")
            yield from lines
    yield "the end" if event.status == "finished" and not rest else "no end: %r %r" % (event, rest)


def by_command_line(jobs):
    """Follow by `logs -f`, its stderr in its stdout; yield lines."""
    with subprocess.Popen([PYTHON, str(FILE), "--db", jobs.db_path, "logs", "-f", "a"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True) as process:
        try:
            yield from (line.rstrip("\n") for line in process.stdout)
        finally:
            process.kill()
    yield "the end" if process.returncode == 0 else "no end: exit code %d" % process.returncode


def strike(path, how, random, done, counts):
    """Cut a log, or take it away and put it back, again and again."""
    while not done.wait(random.uniform(0, 0.04)):
        with contextlib.suppress(FileNotFoundError):
            if how != "taken away" and random.random() < 0.7:
                os.truncate(path, 0)
                counts["cut"] += 1
            elif how != "cut":
                os.rename(path, path + ".away")
                counts["gone"] += 1
                time.sleep(random.uniform(0, 0.04))  # the moment is what is tried
                os.rename(path + ".away", path)


def judge(lines, counts, final):
    """Return what is wrong with what a follower read: numbers that go back, or are missing without a word."""
    problems, last, told, said = [], -1, True, {"cut": 0, "gone": 0}  # what was cut before the first look is not missed
    for line in lines:
        if re.match(r"[0-9]{9}$", line):
            if int(line) <= last or int(line) != last + 1 and not told:
                problems.append("after %d comes %d" % (last, int(line)))
            last, told = int(line), False
        elif line.startswith("nodejobs: stdout.log " + CUT):
            said["cut"], told = said["cut"] + 1, True
        elif line.startswith("nodejobs: stdout.log " + GONE):
            said["gone"] += 1
        elif line != "the end":
            problems.append("a broken line: %.200r" % line)
    problems += ["it did not end with the job"] * (lines[-1:] != ["the end"])
    problems += ["%s was told %d times, and done %d times" % (kind, said[kind], counts[kind])
                 for kind in said if said[kind] > counts[kind]]
    kept = [line for line in lines if line.isdecimal()]
    return problems[:5] + ["what is in the log at the end did not come"] * (kept[len(kept) - len(final):] != final)


def struck_log(jobs, how, follower, random, size):
    record = jobs.run([PYTHON, "-c", WRITER, str(size)], "a", startsecs=0)
    done, counts, lines = threading.Event(), {"cut": 0, "gone": 0}, []
    thread = threading.Thread(target=strike, args=(record.stdout_path, how, random, done, counts))
    try:
        with within(120):
            for line in follower(jobs):
                lines.append(line)
                if thread.ident is None:
                    thread.start()  # it has its file open
                if line == "%09d" % (size - size // 10):
                    done.set()
    except BaseException as error:
        return ["it broke: %r" % error]
    finally:
        done.set()
        thread.join()
        jobs.stop("a", grace=0)
    final = jobs.job_logs("a")[0].splitlines()
    return judge(lines, counts, final) + untidy(cli(jobs.db_path, "logs", "a"), [0])


@attack("logs: cut and taken away under a follower")
def struck_logs(room):
    cases = [(how, follower) for how in ("cut", "taken away", "both") for follower in (by_events, by_command_line)]
    for number, (how, follower) in enumerate(cases * room.size(20, 1)):
        jobs = nodejobs.Jobs(room.path / str(number))
        yield "%s, %s" % (how, follower.__name__), struck_log(jobs, how, follower, room.random, room.size(30000, 10000))
