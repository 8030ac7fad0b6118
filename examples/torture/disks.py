"""Disks that are full, read-only or too small, and logs that may not grow.

A disk is a tmpfs of some 100 KiB in the attack's own mount namespace. A job on it waits for a word, the disk
is filled to the last byte, and only then the job goes on. What became of it must be told all the same, or be
told as unknown; it may never be told as running, or as something else than it was.
"""
import contextlib
import os
import pathlib
import subprocess
import time

from harness import Missing, attack, cli, contained, end, eventually, is_alive, nodejobs, processes_of, untidy


@contextlib.contextmanager
def disk(room, options="size=128k"):
    """Mount a small disk; yield a store on it and a directory beside it."""
    path = room.path / "disk"
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], stderr=subprocess.PIPE)
    if done.returncode:
        raise Missing("no mounts here: %r" % done.stderr)
    try:
        yield path / "store", room.path
    finally:
        left = processes_of(path / "store")
        end(left)
        eventually(lambda: subprocess.run(["umount", str(path)], stderr=subprocess.DEVNULL).returncode == 0)


def fill(store):
    """Write to the disk until it takes nothing more; return the file that fills it."""
    ballast = store.parent / "ballast"
    with open(str(ballast), "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def wait_for_word(beside, then, length=0):
    """A shell line, this much longer than it need be, that waits for a file and then does something."""
    return ": %s; while ! [ -e %s/word ]; do sleep 0.01; done; %s" % ("x" * length, beside, then)


def say(beside):
    (beside / "word").touch()


@attack("disk: full when a job ends")
@contained
def full_at_the_end(room):
    for length in room.pick(range(0, 4200, 37), 6):
        (room.path / "word").exists() and (room.path / "word").unlink()
        with disk(room) as (store, beside):
            jobs = nodejobs.Jobs(store)
            jobs.run("exit 3", "neighbour", startsecs=20)
            jobs.run(wait_for_word(beside, "exit 0", length), "good", startsecs=0)
            jobs.run(wait_for_word(beside, "exit 7", length), "bad", startsecs=0)
            jobs.run(wait_for_word(beside, "sleep 300", length), "long", startsecs=0)
            fill(store)
            problems = untidy(cli(store, "run", "--id", "new", "--", "true"), [125])
            problems += untidy(cli(store, "run", "--id", "good", "--", "true"), [125])
            say(beside)
            told = [(record.status, record.exit_code, record.error) for record in map(jobs.wait, ("good", "bad"))]
            if told != [("finished", 0, None), ("failed", 7, "exit code 7")]:
                problems.append("with the disk full it is told as %r" % told)
            stopped = jobs.stop("long", grace=0.2)
            if stopped.status not in ("stopped", "failed") or (stopped.signal, stopped.exit_code) == (None, None):
                problems.append("stopped on a full disk it is told as %r" % dict(stopped))
            known = {job_id: record.status for job_id, record in jobs.list_status().items()}
            if known.pop("new", None) not in (None, "failed_start") or sorted(known) != ["bad", "good", "long", "neighbour"]:
                problems.append("the list is %r" % known)
            yield "a command of %d bytes" % length, problems


@attack("disk: no room even for the end")
@contained
def no_room_for_the_end(room):
    for number in room.pick(range(40), 4):
        (room.path / "word").exists() and (room.path / "word").unlink()
        code = number % 3
        with disk(room) as (store, beside):
            jobs = nodejobs.Jobs(store)
            record = jobs.run(wait_for_word(beside, "exit %d" % code), "a", startsecs=0)
            journal = pathlib.Path(record.logdir, "journal.jsonl")
            eventually(lambda: b'"running"' in journal.read_bytes())
            ballast = fill(store)
            with open(str(journal), "ab", buffering=0) as file:  # somebody uses up the room that was kept
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\n")
            problems = []
            if jobs.get_status("a").status != "running":
                problems.append("while it runs it is told as %s" % jobs.get_status("a").status)
            say(beside)
            eventually(lambda: not is_alive(record.last_pid))
            told = eventually(lambda: jobs.get_status("a").status != "running" and jobs.get_status("a"), 5)
            if not told or told.status != "lost" or "disk is full" not in told.error or told.exit_code is not None:
                problems.append("ended, and nobody could write how, it is told as %r" % (told and dict(told)))
            if jobs.wait("a", timeout=5).status != "lost":
                problems.append("who waits is told %r" % jobs.wait("a", timeout=5).status)
            if number % 2:
                ballast.unlink()
            else:
                os.truncate(str(ballast), 8192)
            status = "failed" if code else "finished"
            told = eventually(lambda: jobs.get_status("a").status == status and jobs.get_status("a"), 40)
            if not told or told.exit_code != code:
                problems.append("with room again it is told as %r" % dict(jobs.get_status("a")))
            if jobs.run("true", "a", startsecs=20).status != "finished":
                problems.append("the next run does not finish")
            yield "exit code %d, %s" % (code, "ballast gone" if number % 2 else "a little room"), problems


@attack("disk: full while a job writes")
@contained
def full_while_it_writes(room):
    for number in room.pick(range(30), 4):
        capped = number % 2
        with disk(room, "size=%dk" % (100 + 4 * number)) as (store, beside):
            jobs = nodejobs.Jobs(store)
            other = jobs.run(["sleep", "300"], "other", startsecs=0)
            record = jobs.run("head -c %d /dev/zero | tr '\\0' x; echo $? >&2; echo last; exit 5" % (300000 + number),
                              "writer", startsecs=30, merge=False, max_log=200000 if capped else None)
            problems = []
            if (record.status, record.exit_code) != ("failed", 5):
                problems.append("the writer is told as %s, %s" % (record.status, record.exit_code))
            stdout = jobs.job_logs("writer")[0]
            if capped and not stdout.endswith("last\n"):
                problems.append("the newest output was not kept: %d bytes, %r" % (len(stdout), stdout[-20:]))
            if capped and record.dropped_bytes + sum(map(len, jobs.job_logs("writer"))) != 300000 + number + 7:
                problems.append("%d bytes are kept and %r told as dropped" % (len(stdout), record.dropped_bytes))
            if jobs.get_status("other").status != "running" or not is_alive(other.last_pid):
                problems.append("another job was disturbed")
            jobs.stop("other")
            yield "%s, %d KiB" % ("capped" if capped else "as it comes", 100 + 4 * number), problems


@attack("disk: read-only")
@contained
def read_only(room):
    with disk(room, "size=1m") as (store, beside):
        jobs = nodejobs.Jobs(store)
        jobs.run("exit 3", "a", startsecs=20)
        jobs.run("echo out", "b", startsecs=20)
        before = cli(store, "list").stdout
        subprocess.check_call(["mount", "--bind", str(store), str(store)])
        subprocess.check_call(["mount", "-o", "remount,bind,ro", str(store)])
        for words, codes in ((["run", "--id", "a", "--", "true"], [125]), (["run", "--id", "new", "--", "true"], [125]),
                             (["run", "--", "true"], [125]), (["remove", "a"], [125]), (["prune", "--keep", "0"], [125]),
                             (["stop", "a"], [0]), (["status", "a"], [0]), (["logs", "b"], [0]), (["wait", "a"], [3]),
                             (["history", "a"], [0]), (["list"], [0])):
            done = cli(store, *words)
            problems = untidy(done, codes)
            if codes == [125] and ("Read-only" not in done.stderr or done.stderr.count("\n") != 1):
                problems.append("it says %r" % done.stderr)
            if cli(store, "list").stdout != before:
                problems.append("the list has changed")
            yield " ".join(words), problems
        subprocess.check_call(["umount", str(store)])


WRITER = """
import os, random, sys
chance, count, letters = random.Random(int(sys.argv[1])), int(sys.argv[2]), {1: 0, 2: 0}
while count > 0:
    fd, size = chance.choice([1, 1, 1, 2]), min(count, int(10 ** chance.uniform(0, 5)))
    start = letters[fd]
    part = bytes([97 + (start + number) % 23 for number in range(min(size, 23))]) * (size // 23 + 1)
    while size:
        written = os.write(fd, part[:size])
        size, part, letters[fd], count = size - written, part[written:], letters[fd] + written, count - written
open(sys.argv[3], "w").write("%d %d" % (letters[1], letters[2]))
"""


@attack("logs: a cap is kept")
def capped(room):
    """A writer of random bursts counts what it writes; letters follow each other by their place in the stream."""
    jobs = nodejobs.Jobs(room.path / "store")
    for number in room.pick(range(120), 6):
        cap = int(10 ** room.random.uniform(3.1, 6.3))
        count = int(cap * room.random.uniform(0.2, 6)) + 1
        job_id, tally = "writer-%d" % number, room.path / ("tally-%d" % number)
        merge = number % 5 == 0
        record = jobs.run([nodejobs.sys.executable, "-c", WRITER, str(number), str(count), str(tally)], job_id,
                          startsecs=0, max_log=cap, merge=merge)
        problems, most = [], 0
        deadline = time.monotonic() + 60
        while not jobs.get_status(job_id).ended and time.monotonic() < deadline:
            sizes = 0
            for path in pathlib.Path(record.logdir).glob("std*"):
                with contextlib.suppress(FileNotFoundError):
                    sizes += path.stat().st_size
            most = max(most, sizes)
        ended = jobs.wait(job_id, timeout=5)
        if ended.status != "finished":
            problems.append("it is %s: %s" % (ended.status, jobs.job_logs(job_id)[1][-200:]))
            yield job_id, problems
            continue
        written = list(map(int, tally.read_text().split()))
        kept = jobs.job_logs(job_id)
        if most > 1.5 * cap:  # between two looks, a file may be counted under both its names
            problems.append("%d bytes on the disk, the cap is %d" % (most, cap))
        if ended.dropped_bytes != sum(written) - sum(map(len, kept)):
            problems.append("%d + %d bytes are left of %r, and %r told as dropped"
                            % (len(kept[0]), len(kept[1]), written, ended.dropped_bytes))
        share = cap if merge else cap // 2
        for text, total in zip(kept, [sum(written)] if merge else written):
            if not min(total, share // 2) <= len(text) <= share:
                problems.append("%d bytes are kept of %d where the cap is %d" % (len(text), total, cap))
        for text, total in zip(kept, written if not merge else ()):
            start = total - len(text)
            if any(text[place] != chr(97 + (start + place) % 23) for place in range(0, len(text), 7)):
                problems.append("what is kept of %d bytes is not the newest %d, in order" % (total, len(text)))
        jobs.remove(job_id)
        yield "%s: cap %d, %d written" % (job_id, cap, count), problems
