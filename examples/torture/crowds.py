"""Crowds: many who start, read, stop, prune and remove at the same moment, and launchers that fork or have threads.

Where several act at once they are forked before and let go by one barrier: a pipe whose last writer closes.
"""
import collections
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

from harness import ENDED, FILE, PYTHON, Missing, attack, contained, end, eventually, is_alive, nodejobs, processes_of

ORDER = {"starting": 0, "running": 1, "stopping": 2}


def crowd(number, act):
    """Fork so many children, let them all act(place) at once; return what each returned, or its exception as text."""
    barrier, gate = os.pipe()
    children = []
    for place in range(number):
        answer, answer_end = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(gate)
                os.read(barrier, 1)  # the end of file is the start signal
                try:
                    result = act(place)
                except BaseException as error:
                    result = "%s: %s" % (type(error).__name__, error)
                with os.fdopen(answer_end, "w") as stream:
                    json.dump(result, stream)
            finally:
                os._exit(0)
        os.close(answer_end)
        children.append((pid, answer))
    os.close(barrier)
    os.close(gate)
    results = []
    for pid, answer in children:
        with os.fdopen(answer) as stream:
            text = stream.read()
        os.waitpid(pid, 0)
        results.append(json.loads(text) if text else "it died")
    return results


def starts_of(witness):
    return witness.read_text().count("\n") if witness.exists() else 0


def start_one(store, way, witness, fresh):
    """Start the job `one` in this way; return "started RUN", "shared RUN" or the one line of the error."""
    command = ["sh", "-c", 'echo $$ >> "$1"; exec sleep 1000', "sh", str(witness)]
    if way == "library":
        try:
            record = nodejobs.Jobs(store).run(command, "one", startsecs=0, fresh_for=fresh)
            return "ok %d %s" % (record.run, record.last_pid)
        except nodejobs.JobRunning as error:
            return "refused %s" % error
    words = [PYTHON, str(FILE), "--db", str(store), "run", "--id", "one", "--startsecs", "0", "--json"]
    done = subprocess.run(words + (["--fresh", "60"] if fresh else []) + ["--"] + command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode == 125 and not done.stdout and done.stderr.count("\n") == 1:
        return "refused " + done.stderr
    if done.returncode or done.stderr:
        return "exit code %d: %s" % (done.returncode, done.stderr[-300:])
    record = json.loads(done.stdout)
    return "ok %s %s" % (record["run"], record["last_pid"])


@attack("crowds: 64 starts of one id")
@contained
def starts(room):
    for turn in range(room.size(24, 4)):
        store, witness = room.path / ("db%d" % turn), room.path / ("witness%d" % turn)
        fresh = 60 if turn % 2 else None
        for _ in range(turn % 3):  # with and without runs before
            nodejobs.Jobs(store).run(["true"], "one")
            nodejobs.Jobs(store).wait("one")
        if turn % 3 and fresh:
            nodejobs.Jobs(store).remove("one")
        ways = ["library" if (place + turn) % room.size(2, 4) else "command line" for place in range(64)]
        results = crowd(64, lambda place: start_one(store, ways[place], witness, fresh))
        done = [result for result in results if result.startswith("ok ")]
        refused = [result for result in results if result.startswith("refused ") and "is running" in result]
        problems = []
        eventually(lambda: starts_of(witness))
        if starts_of(witness) != 1:
            problems.append("%d commands ran" % starts_of(witness))
        if fresh and (len(done) != 64 or len(set(done)) != 1):
            problems.append("not one record for all: %s" % collections.Counter(results).most_common(4))
        if not fresh and (len(done) != 1 or len(refused) != 63):
            problems.append("%d started, %d refused: %s" % (len(done), len(refused),
                                                          sorted(set(results) - set(done) - set(refused))[:3]))
        record = nodejobs.Jobs(store).stop("one")
        if record.status != "stopped" or processes_of(store):
            problems.append("after stop: %s, %s" % (record.status, processes_of(store)))
        yield "64 starts, turn %d%s" % (turn, ", fresh" if fresh else ""), problems


class Watcher:
    """A reader that remembers what it was told, and notes what goes back, is half, or changes after the end."""

    def __init__(self, store):
        self.jobs, self.seen, self.ended, self.problems, self.looks = nodejobs.Jobs(store), {}, {}, [], 0

    def see(self, record, job_id, newest=True):
        if record.self_id != job_id or record.status not in (*ORDER, *ENDED) or not record.command or not record.cookie:
            return self.problems.append("half a record: %.400r" % dict(record))
        if "damaged" in str(record.error) or "cannot be read" in str(record.error):
            self.problems.append("told damaged: %s" % record.error)
        if record.status in ("running", "stopping", "finished", "failed") and not (record.last_pid and record.started_at):
            self.problems.append("%s without a pid: %.400r" % (record.status, dict(record)))
        if record.status in ("finished", "failed", "stopped") and (
                not record.ended_at or (record.exit_code is None) == (record.signal is None)):
            self.problems.append("%s without facts: %.400r" % (record.status, dict(record)))
        if record.status == "lost":
            self.problems.append("told lost: %.400r" % dict(record))
        key = (job_id, record.cookie)
        if record.ended and self.ended.setdefault(key, dict(record)) != dict(record):
            self.problems.append("an end changed: %r, then %r" % (self.ended[key], dict(record)))
        rank = (record.run, ORDER.get(record.status, 3))
        before = self.seen.get(key, (record.run, -1))
        if rank < before:
            self.problems.append("%s went back from %s to %s" % (job_id, before, rank))
        self.seen[key] = max(rank, before)
        if newest:  # where jobs are never removed their run numbers only grow
            before = self.seen.get(job_id, (0, 0))
            if rank < before:
                self.problems.append("%s: its newest run went back from %s to %s" % (job_id, before, rank))
            self.seen[job_id] = max(rank, before)

    def look(self, ids, removed):
        for job_id, record in self.jobs.list_status().items():
            self.see(record, job_id, not removed)
        for job_id in ids:
            record = self.jobs.get_status(job_id)
            if record is not None:
                self.see(record, job_id, not removed)
            runs = []
            for record in self.jobs.history(job_id):
                self.see(record, job_id, False)
                runs.append(record.run)
            if runs != sorted(set(runs)):
                self.problems.append("history of %s: %s" % (job_id, runs))
            try:
                self.jobs.job_logs(job_id)
            except nodejobs.UnknownJob:
                pass
        self.looks += 1


def read_until(store, ids, over, removed=False):
    """Read everything over and over until the file `over` is there; return [looks, problems]."""
    watcher = Watcher(store)
    while not over.exists():
        with contextlib.suppress(nodejobs.UnknownJob):
            try:
                watcher.look(ids, removed)
            except nodejobs.UnknownJob:
                raise
            except Exception as error:
                watcher.problems.append("a reader got %s: %s" % (type(error).__name__, error))
        if len(watcher.problems) > 20:
            break
    return [watcher.looks, sorted(set(watcher.problems))[:3]]


@attack("crowds: 500 jobs from 8 processes")
@contained
def many(room):
    store, over, each = room.path / "db", room.path / "over", room.size(63, 12)
    kinds = [("true", "finished", 0), ("exit 3", "failed", 3), ("kill -9 $$", "failed", None), ("exec sleep 1000", "stopped", None)]

    def launcher(place):
        jobs, problems = nodejobs.Jobs(store), []
        for number in range(each):
            job_id, (line, status, code) = "job-%d-%d" % (place, number), kinds[number % 4]
            jobs.run("echo out %s; echo err %s >&2; %s" % (job_id, job_id, line), job_id, startsecs=0)
            if status == "stopped":
                eventually(lambda: jobs.job_logs(job_id)[1])
                jobs.stop(job_id)
            record = jobs.wait(job_id, 60)
            if (record.status, record.exit_code) != (status, code):
                problems.append("%s is told %s, %s" % (job_id, record.status, record.exit_code))
            if jobs.job_logs(job_id) != ("out %s\n" % job_id, "err %s\n" % job_id):
                problems.append("%s has the logs %r" % (job_id, jobs.job_logs(job_id)))
        (room.path / ("done%d" % place)).write_text("")
        if all((room.path / ("done%d" % other)).exists() for other in range(8)):
            over.write_text("")
        return problems

    def act(place):
        return launcher(place) if place < 8 else read_until(store, ["job-%d-1" % (place - 8)], over)
    results = crowd(11, act)
    for place, result in enumerate(results[:8]):
        for number in range(each):
            yield "job-%d-%d" % (place, number), ([result] if isinstance(result, str) else result) if not number else []
    for result in results[8:]:
        yield "a reader", [result] if isinstance(result, str) else result[1] + ["it never looked"] * (not result[0])
    found = collections.Counter(record.status for record in nodejobs.Jobs(store).list_status().values())
    wanted = collections.Counter({status: 8 * len(range(place, each, 4)) for place, (_, status, _) in enumerate(kinds)})
    yield "all in the list", [] if sum(found.values()) == 8 * each and all(
        found[status] == 8 * sum(kinds[number % 4][1] == status for number in range(each)) for status in wanted
    ) else ["%s" % found]


@attack("crowds: prune and remove while others read and start")
@contained
def removals(room):
    ids = ["a", "b", "c", "d"]
    for turn in range(room.size(12, 1)):
        store, over = room.path / ("db%d" % turn), room.path / ("over%d" % turn)
        nodejobs.Jobs(store).run(["sleep", "1000"], "stays", startsecs=0)
        stop_at = time.monotonic() + room.size(8, 3)

        def starter(place):
            jobs, problems, count = nodejobs.Jobs(store, keep=2), [], 0
            while time.monotonic() < stop_at:
                job_id = ids[(place + count) % 4]
                try:
                    record = jobs.run(["true"], job_id, startsecs=0)
                    after = jobs.get_status(job_id, record.run)
                    if after is not None and after.cookie == record.cookie and after.status not in ("running", "finished"):
                        problems.append("its run is told %s, %s" % (after.status, after.error))
                    count += 1
                except nodejobs.JobRunning:
                    pass
                except Exception as error:
                    problems.append("run: %s: %s" % (type(error).__name__, error))
            return [count, problems[:3]]

        def remover(place):
            jobs, problems, count = nodejobs.Jobs(store), [], 0
            while time.monotonic() < stop_at:
                try:
                    if place % 2:
                        count += len(jobs.prune(keep=count % 2))
                    else:
                        jobs.remove(ids[count % 4])
                        count += 1
                except nodejobs.JobRunning:
                    count += 1
                except nodejobs.UnknownJob:
                    count += 1
                except Exception as error:
                    problems.append("remove: %s: %s" % (type(error).__name__, error))
            with contextlib.suppress(nodejobs.NodejobsError):
                jobs.remove("stays")
                problems.append("a running job was removed")
            over.write_text("")
            return [count, problems[:3]]

        acts = [starter, remover, starter, remover] + [lambda place: read_until(store, ids, over, True)] * 3
        for place, result in enumerate(crowd(len(acts), lambda place: acts[place](place))):
            yield "turn %d, %s" % (turn, ("starter", "remover", "starter", "remover", "reader", "reader", "reader")[place]), (
                [result] if isinstance(result, str) else result[1] + ["it did nothing"] * (not result[0]))
        left = [name for name in os.listdir(str(store)) if name.startswith(".removed-")]
        problems = ["left over after all: %s" % left] if left else []
        if nodejobs.Jobs(store).get_status("stays").status != "running":
            problems.append("the running job is told %s" % nodejobs.Jobs(store).get_status("stays"))
        nodejobs.Jobs(store).stop("stays")
        yield "turn %d, at the end" % turn, problems + ["processes left"] * bool(processes_of(store))


@attack("crowds: 8 stop one job")
@contained
def stoppers(room):
    jobs = nodejobs.Jobs(room.path / "db")
    cases = [("obeys", "sleep 1000 & sleep 1000 & wait"), ("ignores", "trap '' TERM; while :; do sleep 1; done"),
             ("ends by itself", None)]
    for turn in range(room.size(60, 9)):
        name, line = cases[turn % 3]
        line = line or "sleep 0.%03d" % room.random.randrange(60, 140)
        record = jobs.run(line, "job", startsecs=0)
        go = time.monotonic() + 0.05

        def stopper(place):
            while time.monotonic() < go:
                pass
            if name == "ends by itself":  # so that the calls are spread over the end
                time.sleep(place * 0.012)
            return jobs.stop("job", 0.2).status
        results = crowd(8, stopper)
        after = jobs.wait("job", 10)
        fine = ("stopped", "finished") if name == "ends by itself" else ("stopped",)
        problems = [] if set(results) <= set(fine) and {after.status} == set(results) else [
            "%s, and the job is told %s" % (collections.Counter(results), after.status)]
        if is_alive(record.last_pid) or processes_of(jobs.db_path):
            problems.append("processes live on: %s" % processes_of(jobs.db_path))
        if after.status == "finished" and after.exit_code != 0 or after.status == "stopped" and after.error:
            problems.append("told %s, %s, %s, %s" % (after.status, after.exit_code, after.signal, after.error))
        yield "turn %d, %s" % (turn, name), problems


@attack("crowds: a launcher with 16 threads")
@contained
def threads(room):
    store, each, problems = room.path / "db", room.size(40, 6), collections.defaultdict(list)
    jobs, before = nodejobs.Jobs(store), len(os.listdir("/proc/self/fd"))

    def act(place):
        for number in range(each):
            job_id = "own-%d" % place if number % 3 else "shared"
            try:
                record = jobs.run("exit %d" % place, job_id, startsecs=0)
                if job_id != "shared":  # that one may be another thread's by now
                    record = jobs.wait(job_id, 60)
                if record.ended and record.exit_code != place:
                    problems[place].append("exit code %s of %s" % (record.exit_code, job_id))
            except nodejobs.JobRunning as error:
                if job_id != "shared":
                    problems[place].append("%s" % error)
            except BaseException as error:
                problems[place].append("%s: %s" % (type(error).__name__, error))
    crew = [threading.Thread(target=act, args=(place,), daemon=True) for place in range(16)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(150)
    for place in range(16):
        yield "thread %d" % place, problems[place][:3] + ["it hangs"] * crew[place].is_alive()
    for record in jobs.list_status():
        jobs.wait(record, 20)
    left = len(os.listdir("/proc/self/fd")) - before
    yield "afterwards", (["%d descriptors left open" % left] if left else []) + [
        "%s is told %s" % item for item in jobs.list_status().items() if not item[1].ended]


def linger():
    time.sleep(100000)


@attack("crowds: a launcher that forks at the worst moment")
@contained
def forks(room):
    if sys.implementation.name != "cpython":
        raise Missing("a Python that can fork while it has threads; children of PyPy wait for ever")
    store = room.path / "db"
    for turn in range(room.size(40, 4)):
        jobs, children, over = nodejobs.Jobs(store), [], threading.Event()
        context = multiprocessing.get_context("fork")

        def forker():
            while not over.is_set() and len(children) < 150:
                child = context.Process(target=linger, daemon=True)
                child.start()
                children.append(child.pid)
        thread = threading.Thread(target=forker, daemon=True)
        thread.start()
        eventually(lambda: children)
        problems, job_id, slow = [], "job-%d" % (turn % 3), 0.0
        try:
            for number in range(room.size(10, 6)):
                began = time.monotonic()
                record = jobs.run(["true"], job_id, startsecs=0)
                record = jobs.wait(job_id, 8)
                slow = max(slow, time.monotonic() - began)
                if record.status != "finished":
                    problems.append("start %d: still told %s" % (number, record.status))
                    break
                with contextlib.suppress(nodejobs.UnknownJob):
                    if number % 3 == 2:
                        jobs.remove(job_id)
            record = jobs.run(["sleep", "1000"], "long", startsecs=0)
            if jobs.stop("long").status != "stopped":
                problems.append("stop: told %s" % jobs.get_status("long").status)
        except Exception as error:
            problems.append("%s: %s" % (type(error).__name__, error))
        over.set()
        thread.join(30)
        try:  # the forked children live on
            nodejobs.Jobs(store).run(["true"], job_id, startsecs=0)
            if nodejobs.Jobs(store).wait(job_id, 8).status != "finished":
                problems.append("afterwards: still told active")
            nodejobs.Jobs(store).remove(job_id)
        except Exception as error:
            problems.append("afterwards: %s: %s" % (type(error).__name__, error))
        if slow > 9:
            problems.append("one start and end took %.1f s" % slow)
        end(children)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        yield "turn %d, %d forks" % (turn, len(children)), problems + ["it never forked"] * (not children)
