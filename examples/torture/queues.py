"""Attacks on the queue: whoever puts a job into it, ends in it or starts from it is killed or fails at every call.

The commands tell what is true: each appends a line to a witness file when it begins and when it ends. So the file
shows, in the kernel's order, how many ran at once, which began first, and what began twice or never.
"""
import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import time
from random import Random

from crowds import crowd
from errors import errors_of
from harness import (ACTIVE, ENDED, FILE, PYTHON, Missing, attack, cli, contained, end, eventually, is_alive, kill,
                     nodejobs, processes_of, state_of, untidy)
from killed import Call, DULL, need_strace, strike_every
from struck import LAUNCHER, STEADY, WRAPPER

STARTS_OR_RUNS = ("starting", "running", "stopping")


def is_traced(pid):
    """Tell whether strace has attached itself to a process, or that is gone."""
    try:
        return "TracerPid:\t0\n" not in pathlib.Path("/proc/%d/status" % pid).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Line:
    """A store with jobs of one queue in it, and what their commands have said."""

    def __init__(self, path, slots=1, queue="q"):
        self.place, self.store, self.slots, self.queue = path, path / "db", slots, queue
        path.mkdir()
        self.jobs, self.witness, self.log = nodejobs.Jobs(self.store), path / "witness", path / "strace"
        self.witness.touch()
        self.told_ended, self.tracer, self.launcher = {}, None, None

    def command(self, job_id, gate=False, line="sleep 0.02"):
        """Return a command that says when it begins and ends; with a gate it waits for `release` in between."""
        if gate:
            os.mkfifo(str(self.place / job_id))
            line = "read word < '%s'" % (self.place / job_id)
        return "echo begin %s $$ >> '%s'; %s; echo end %s $$ >> '%s'" % (
            job_id, self.witness, line, job_id, self.witness)

    def submit(self, job_id, gate=False, **options):
        options.setdefault("queue", self.queue)
        return self.jobs.run(self.command(job_id, gate), job_id, startsecs=0, **options)

    def release(self, job_id):
        """Let a command with a gate go on."""
        fd = os.open(str(self.place / job_id), os.O_RDWR)
        os.write(fd, b"\n")
        eventually(lambda: any(what == "end" and name == job_id for what, name, _ in self.said()))
        os.close(fd)

    def said(self):
        """Return what the commands have said so far: (begin or end, id, pid)."""
        lines = [line.split() for line in self.witness.read_text().split("\n")[:-1]]
        return [(what, job_id, int(pid)) for what, job_id, pid in lines]

    def note_end(self, job_id, pid):
        """Say that a command has ended, in its place: the attack has killed it."""
        with open(str(self.witness), "a") as witness:
            witness.write("end %s %d\n" % (job_id, pid))

    def began(self, said=None):
        return [words[1] for words in (self.said() if said is None else said) if words[0] == "begin"]

    def workers(self, names=()):
        """Return the pids of this store's monitors and starters, or of those with such a last word."""
        found, own = [], os.fsencode(str(self.store))
        ids = {os.fsencode(name) for name in os.listdir(str(self.store))} if self.store.exists() else set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = pathlib.Path("/proc", name, "cmdline").read_bytes().split(b"\0")
                ours = words[-3:-1] == [own, b"nodejobs-starter"] or (
                    words[-3:-2] == [b"nodejobs-monitor"] and words[-2] in ids)
                if ours and is_alive(int(name)) and (not names or words[-2].decode() in names):
                    found.append(int(name))
        return found

    def quiet(self, seconds=20):
        """Wait until nothing of this store runs; return whether it does not."""
        def still():
            return not processes_of(self.store) and not self.workers() and not any(
                record.status in STARTS_OR_RUNS for record in self.jobs.list_status().values())
        return eventually(lambda: still() and still(), seconds)  # twice: a look at /proc can miss what forks and ends

    def look(self, by_cli=False):
        """Return ({id: record}, what they say that cannot be so)."""
        before, problems = self.said(), []
        lives = {job_id for what, job_id, pid in before if what == "begin" and is_alive(pid)}
        try:
            if by_cli:
                done = cli(self.store, "list", "--json")
                problems += untidy(done, [0])
                records = {record["self_id"]: nodejobs.JobRecord(record) for record in json.loads(done.stdout or "[]")}
            else:
                records = self.jobs.list_status()
            queues = self.jobs.queues()
        except Exception as error:
            return {}, ["list: %s: %s" % (type(error).__name__, error)] + problems
        after = self.said()
        lives -= {job_id for what, job_id, pid in after if what == "begin" and not is_alive(pid)}
        ended = {job_id for what, job_id, _ in after if what == "end"}
        for job_id in set(self.began(before)) | set(records):
            record = records.get(job_id)
            status = record.status if record else None
            if status not in ACTIVE + ENDED:
                problems.append("%s has begun and is told %s" % (job_id, status))
            elif job_id in lives and status not in STARTS_OR_RUNS:
                problems.append("%s lives and is told %s" % (job_id, status))
            elif job_id in self.began(before) and status in ("queued", "failed_start"):
                problems.append("%s has begun and is told %s" % (job_id, status))
            elif status == "finished" and job_id not in ended:
                problems.append("%s has not come to its end and is told finished" % job_id)
            if record and "damaged" in str(record.error):
                problems.append("%s: %s" % (job_id, record.error))
            if status in ENDED and self.told_ended.setdefault((job_id, record.run), status) != status:
                problems.append("%s was told %s, and now %s" % (job_id, self.told_ended[job_id, record.run], status))
        shown = queues.get(self.queue)
        if shown and len(shown.running) > self.slots:
            problems.append("told %d running: %s" % (len(shown.running), shown.running))
        return records, problems

    def crowded(self):
        """Return where more ran at once than there are slots, and what began twice."""
        running, problems = [], []
        for what, job_id, _ in self.said():
            if what == "end":
                running.remove(job_id)
            else:
                running.append(job_id)
            if len(running) > self.slots:
                problems.append("at once: %s" % running)
        runs = {job_id: record.run for job_id, record in self.jobs.list_status().items()}
        twice = [job_id for job_id, count in collections.Counter(self.began()).items() if count > runs.get(job_id, 1)]
        return problems[:1] + ["begun twice: %s" % twice] * bool(twice)

    def order(self):
        """Return the ids of what waits, in the order that is told."""
        waiting = self.jobs.list_status({"status": "queued"}).values()
        return [record.self_id for record in sorted(waiting, key=lambda record: record.position)]

    def left(self):
        """Return what is left over after all has ended."""
        problems = ["processes: %s" % processes_of(self.store)] * bool(processes_of(self.store))
        problems += ["workers: %s" % self.workers()] * bool(self.workers())
        files = [str(path.relative_to(self.store)) for path in self.store.glob("**/*")]
        files = [name for name in files if name.endswith(".launch")]
        return problems + ["left over: %s" % files] * bool(files)

    def clean(self):
        for _ in range(3):
            end(self.workers() + processes_of(self.store))
        for process in filter(None, (self.launcher, self.tracer)):
            process.kill()
            process.communicate()
        subprocess.call(["rm", "-rf", str(self.place)])


ASKERS = ("queue start", "wait", "run", "library", "run it again", "run it afresh")


def ask_any(line, number, last, suffix):
    """Let somebody use the store; return the problems."""
    how = ASKERS[number % len(ASKERS)]
    if how == "library":
        line.jobs.start_due()
        return []
    new = last if how.startswith("run it") else "new" + suffix
    words = {"queue start": ["queue", "start"], "wait": ["wait", last, "--timeout=20"]}.get(
        how, ["run", "--queue", line.queue, "--id", new, "--startsecs=0", "-c", line.command(new)])
    if how == "run it again" and line.jobs.get_status(last) and line.jobs.get_status(last).ended:
        return []
    done = cli(line.store, *words, *["--fresh=1h"] * (how == "run it afresh"))
    if how == "wait" and "there is no job" in done.stderr:  # that has asked for nothing
        line.jobs.start_due()
    codes = {"wait": [0, 1, 125], "run it again": [0, 125]}.get(how, [0])
    return ["the next %s: %s" % (how, problem) for problem in untidy(done, codes)]


Blow = collections.namedtuple("Blow", "call when how")
Completed = collections.namedtuple("Completed", "returncode stderr")


class Struck(Line):
    """A queue of one slot, of which one process is struck. The jobs: A ran first, B and C wait, X is being queued."""

    def __init__(self, room, number, role):
        super().__init__(room.path / str(number))
        self.role, self.number = role, number if isinstance(number, int) else 0
        self.a, self.b, self.c, self.x = ["%s-%s-%s" % (room.path.name, number, letter) for letter in "abcx"]
        if role != "submitter, slot free":
            self.submit(self.a, gate=True)
        if role in VERBS:
            self.submit(self.x)
        elif not role.startswith("submitter"):
            self.submit(self.b)
            self.submit(self.c)
        eventually(lambda: role == "submitter, slot free" or self.began())
        if role == "asker" or role in DEPTHS:
            record = self.jobs.get_status(self.a)
            end([record.monitor_pid])  # nobody is left who would start the next one
            end([record.last_pid])
            self.note_end(self.a, record.last_pid)

    def strace(self, blow):
        line = ["strace", "-qqq", "-o", str(self.log)]
        if blow is None:
            return line + ["-y", "-s", "200"]
        return line + ["-e", "trace=preadv,preadv2,%s" % blow.call,
                       "-e", "inject=%s:%s:when=%s" % (blow.call, blow.how, blow.when)]

    def strike(self, blow):
        """Do what the role does, struck; return how a command line ended, if that was struck."""
        if self.role.startswith("submitter"):
            words = ["run", "--queue", self.queue, "--id", self.x, "--startsecs=0", "-c", self.command(self.x)]
            done = cli(self.store, *words, before=self.strace(blow), env=STEADY)
        elif self.role == "asker" or self.role in VERBS:
            words = VERBS.get(self.role, ("queue", "start"))
            words = [word % self.x if "%" in word else word for word in words]
            done = cli(self.store, *words, before=self.strace(blow), env=STEADY)
        elif self.role in DEPTHS:
            done = self.strike_monitor(blow)
        else:
            done = self.strike_at_the_end(blow)
        self.struck = blow is not None and bool(re.search(r"killed by SIGKILL|INJECTED", self.text()))
        return done

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def strike_at_the_end(self, blow):
        """Strike the monitor of A, from the end of its command on, or the starter that it executes."""
        monitor = self.jobs.get_status(self.a).monitor_pid
        if self.role == "finishing monitor":
            self.tracer = subprocess.Popen(self.strace(blow) + ["-p", str(monitor)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(lambda: is_traced(monitor))
        else:
            path, = self.store.glob(".queue/starter")
            wrapper = self.place / "starter"
            wrapper.write_text("#!/bin/sh\nexec %s %s \"$@\"\n" % (" ".join(self.strace(blow)), PYTHON))
            wrapper.chmod(0o755)
            whole = path.read_bytes()
            path.write_bytes(os.fsencode(str(wrapper)) + whole[whole.index(b"\n"):])
        self.release(self.a)
        if self.role == "starter":  # it may not be there yet when the monitor is gone
            eventually(self.text)
        eventually(lambda: not is_alive(monitor))
        names = (self.a, "nodejobs-starter")  # twice: a look at /proc can miss what forks and ends
        eventually(lambda: not is_alive(monitor) and not self.workers(names) and not self.workers(names))
        if self.role == "starter":
            path.write_bytes(whole)
        return None

    def meet(self):
        """Start B by an asker whose monitor waits at a gate: as the bare interpreter, its fork, or what becomes B."""
        wrapper = self.place / "wrapper"
        wrapper.write_text(WRAPPER % (PYTHON, str(self.place), DEPTHS[self.role]))
        wrapper.chmod(0o755)
        (self.place / "gate").touch()
        self.launcher = subprocess.Popen(
            [PYTHON, "-c", LAUNCHER, str(wrapper), "queue", "start"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True,
            env=dict(os.environ, NODEJOBS_DB=str(self.store), **STEADY))
        return eventually((self.place / "met").exists)

    def strike_monitor(self, blow):
        """Strike what waits at the gate."""
        if self.meet():
            words = ["-b", "execve"] * (self.role == "its child" and (blow is None or "error" not in blow.how))
            words += ["-p", (self.place / "met").read_text()]
            self.tracer = subprocess.Popen(self.strace(blow) + words, stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(lambda: "preadv" in self.text())
        (self.place / "gate").write_text("!")
        out, err = self.launcher.communicate(timeout=60)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.tracer.wait(20)
        return Completed(self.launcher.returncode, err)

    def judge(self, done, codes):
        """Ask all that is promised after the blow; return the problems."""
        # Whose monitor was killed before it had started anything says so: the job is still queued.
        problems = untidy(done, codes + [125] * (self.role in DEPTHS)) if done else []
        if done and done.returncode == 125 and not re.match(r"(nodejobs: .*\n)+\Z", done.stderr):
            problems.append("not clear lines on stderr: %r" % done.stderr[-300:])
        records, wrong = self.look(self.number % 2)
        problems += wrong
        if done and done.returncode == 0 and self.role.startswith("submitter") and self.x not in records:
            problems.append("run exits with 0, and there is no such job")
        if self.role == "submitter, slot taken" or self.role in VERBS:
            self.release(self.a)
        # A command whose monitor was killed tells nobody of its end.
        for again in range(2 if self.role in DEPTHS else 1):
            last = self.x if self.role.startswith("submitter") or self.role in VERBS else self.c
            problems += ask_any(self, self.number + again, last, "%s-%d" % (self.a, again))
            if not self.quiet():
                problems.append("no quiet: %s, %s" % (processes_of(self.store), self.workers()))
        known, (records, wrong) = set(records), self.look(self.number % 2)
        problems += wrong + self.crowded() + self.left()
        blame = self.b if self.role in DEPTHS else self.a if self.role == "finishing monitor" else None
        for job_id in known | set(records):
            record = records.get(job_id)
            fine = record is not None and record.status == "finished" and job_id in self.began()
            if job_id == self.a and (self.role == "asker" or self.role in DEPTHS or self.role == "finishing monitor"):
                fine = record is not None and record.status in ("lost", "finished")  # its monitor was killed
            elif job_id == self.x and self.role in VERBS:  # done, or not done; by now it may have been run again
                fine = fine or job_id not in self.began() and (record is None or record.status == "stopped")
                if done.returncode == 0 and job_id in self.began() and ASKERS[self.number % len(ASKERS)] not in (
                        "run it again", "run it afresh"):
                    problems.append("%s exits with 0, and it ran" % self.role)
            elif job_id == blame and record is not None and "signal" in self.blow.how:
                fine = fine or record.status in ("lost", "failed_start") or (
                    self.role == "its child" and record.signal == "SIGKILL")
            elif job_id == blame or done and done.returncode == 125 and job_id == self.x:
                fine = fine or record is not None and record.status in ENDED and record.error
            if not fine:
                problems.append("%s is told %s, %s, and began %d times" % (
                    job_id, record and record.status, record and record.error, self.began().count(job_id)))
        unknown = [job_id for job_id in self.began() if job_id not in records]
        problems += ["begun, and there is no such job: %s" % unknown] * bool(unknown)
        order = [self.a, self.b, self.c, self.x, "new%s-0" % self.a, "new%s-1" % self.a]
        order = [job_id for job_id in order if job_id in self.began()]
        # What a broken disk keeps from starting is overtaken; what lacks processes or descriptors is not.
        if list(dict.fromkeys(self.began())) != order and not re.search("EIO|EACCES|ENOSPC", self.blow.how):
            problems.append("not in order: %s" % self.began())
        return problems


VERBS = {"stopper": ("stop", "%s"), "remover": ("remove", "%s")}
DEPTHS = {"bare interpreter": 0, "next monitor": 1, "its child": 2}
ROLES = ("submitter, slot free", "submitter, slot taken", "finishing monitor", "starter", "asker", *VERBS, *DEPTHS)


def survey(room, role):
    """Return the calls of that role that have to do with the queue, by a dry run."""
    case = Struck(room, "dry-%s" % role.replace(" ", "-"), role)
    try:
        case.strike(None)
        lines, counts, calls = case.text().splitlines(), collections.Counter(), []
        mark = "preadv" if role in DEPTHS else str(case.store)
        seen = [number for number, line in enumerate(lines) if mark in line and not line.startswith("execve(")]
        first = 0 if role == "finishing monitor" else seen[-1] + 1 if role in DEPTHS else seen[0]
        for number, line in enumerate(lines):
            name = re.match(r"(\w+)\(", line)
            if name:
                counts[name.group(1)] += 1
                if number >= first and name.group(1) not in DULL and "/lib/python" not in line:
                    text = line.replace(str(case.store), "STORE")
                    calls.append(Call(name.group(1), counts[name.group(1)], text, False))
        loop = [call for call in calls if call.name == "rt_sigaction"]
        return [call for call in calls if call.name != "rt_sigaction"] + loop[::max(1, len(loop) // 4)]
    finally:
        case.clean()


def strike_all(room, role, plan, codes):
    """Strike every (blow, text) of a plan; yield what the frame wants."""
    def name_of(blow, text):
        return "%s %s %s %s" % (blow.how, blow.call, blow.when, text[:90])

    def case_of(number, blow, text):
        case = Struck(room, number, role)
        case.blow = blow
        return case
    return strike_every(plan, name_of, case_of, codes, 3)


def cut(room, plan, quick):
    if not plan:
        raise Missing("CPython: by its calls such a process is told from others")
    if not room.full:
        dull = ("close", "newfstatat", "getdents64", "rt_sigaction", "read", "fstat")
        plan = [entry for entry in plan if entry[0].call not in dull]
    return room.pick(plan, quick)


def register(role):
    @attack("queues: killed " + role)
    def struck_by_kill(room):
        need_strace()
        plan = [(Blow(call.name, call.ordinal, "signal=KILL"), call.text) for call in survey(room, role)]
        yield from strike_all(room, role, cut(room, plan, 8), [-9] if role not in DEPTHS else [0])

    if role in (*DEPTHS, "finishing monitor"):  # see errors.py
        return

    @attack("queues: errors of " + role)
    def struck_by_error(room):
        need_strace()
        plan = []
        for call in survey(room, role):
            errors = errors_of(call)
            if "STORE" in call.text and call.name in ("openat", "mkdir", "unlink", "unlinkat", "rename", "renameat"):
                errors.append("EACCES")
            for error in errors:
                when = "%d%s" % (call.ordinal, "+" * ("+" in error))
                plan.append((Blow(call.name, when, "error=" + error.rstrip("+")), call.text))
        yield from strike_all(room, role, cut(room, plan, 8), [0, 125])


for name in ROLES:
    register(name)


@attack("queues: 64 submit at once")
@contained
def submitters(room):
    turns = [(slots, paused) for slots in (1, 2, 5) for paused in (True, False)]
    for number, (slots, paused) in enumerate(room.pick(turns * room.size(4, 1), 3)):
        line = Line(room.path / str(number), slots)
        ids = ["job-%02d" % place for place in range(64)]
        if paused:
            line.jobs.resume("q", slots)
            line.jobs.pause("q")

        def submit(place):
            began = time.monotonic()
            if place % 8:
                line.submit(ids[place], slots=slots)
            else:
                done = cli(line.store, "run", "--queue", "q:%d" % slots, "--id", ids[place], "--startsecs=0", "-c",
                           line.command(ids[place]))
                if done.returncode or done.stderr:
                    return "exit code %d: %s" % (done.returncode, done.stderr[-300:])
            return [began, time.monotonic()]
        results, problems = crowd(64, submit), []
        problems += ["%s: %s" % pair for pair in zip(ids, results) if isinstance(pair[1], str)][:3]
        order = line.order() if paused else None
        if paused:
            problems += ["begun in a paused queue: %s" % line.began()] * bool(line.began())
            line.jobs.resume("q")
        eventually(lambda: len(line.began()) == 64, 60)
        problems += ["no quiet: %s" % line.workers()] * (not line.quiet())
        records, wrong = line.look()
        problems += wrong + line.crowded() + line.left()
        problems += ["%s is told %s, %s" % (job_id, record.status, record.error) for job_id, record in records.items()
                     if record.status != "finished"][:3]
        problems += ["%d of 64 ran" % len(line.began())] * (sorted(line.began()) != ids)
        started = sorted(records, key=lambda job_id: records[job_id].started_clock or 0)
        problems += ["not in the order of their tickets: %s, %s" % (order, started)] * (paused and order != started)
        times = [records[job_id].queued_at for job_id in started]
        problems += ["not in the order of queued_at: %s" % times] * (times != sorted(times))
        spans = [results[ids.index(job_id)] for job_id in started]
        overtaken = [(one, other) for one, other in itertools.combinations(range(0 if problems else 64), 2)
                     if spans[other][1] < spans[one][0]]
        problems += ["%s began before %s, which had been queued before" % (started[one], started[other])
                     for one, other in overtaken][:3]
        if slots == 1:
            problems += ["the commands began in another order: %s" % line.began()] * (line.began() != started)
        yield "%d slots%s" % (slots, ", paused first" * paused), problems
        line.clean()


NOT_STARTED = "was not started"  # where it was the monitor that was killed


class Storm(Line):
    """Many at work in some queues, some of them killed; ids are never used twice."""

    QUEUES = {"one": 1, "two": 2, None: 1000}

    def __init__(self, path):
        super().__init__(path, queue=None)
        self.locks = path / "locks"
        self.locks.mkdir()

    def note(self, *words):
        with open(str(self.witness), "a") as witness:
            witness.write(" ".join(map(str, words)) + "\n")

    def said(self):
        return [line.split() for line in self.witness.read_text().split("\n")[:-1]]

    def command(self, job_id, queue, seconds, code):
        """Return a command that takes a slot, which the kernel frees when it dies, and says so."""
        lock = "exec 9> '%s'/%s-$slot; flock -n 9" % (self.locks, queue)
        if queue is None:
            lock = "true"
        slots = " ".join(map(str, range(self.QUEUES[queue]))) if queue else "0"
        say = "echo %%s %s $$ >> '%s'" % (job_id, self.witness)
        return "for slot in %s; do if %s; then %s; sleep %s 9>&-; %s; exit %d; fi; done; %s" % (
            slots, lock, say % "begin", seconds, say % "end", code, say % "crowded")

    def submitter(self, place, random, until):
        problems, mine = [], []
        while time.monotonic() < until:
            job_id, queue = "job-%d-%d" % (place, len(mine)), random.choice([*self.QUEUES])
            needs = random.sample(mine, min(len(mine), 1))
            after, after_ok = random.choice([([], []), ([], []), (needs, []), ([], needs)])
            if queue is None and not after and not after_ok:
                continue
            line = self.command(job_id, queue, "0.0%d" % random.randrange(1, 6), random.choice((0, 0, 0, 3)))
            self.note("wants", job_id, *["after"] * bool(after), *["after_ok"] * bool(after_ok), *after, *after_ok)
            mine.append(job_id)
            try:
                if place % 2:
                    self.jobs.run(line, job_id, startsecs=0, queue=queue, slots=queue and self.QUEUES[queue],
                                  after=after, after_ok=after_ok, first=queue is not None and random.random() < 0.1)
                    self.note("submitted", job_id)
                else:
                    words = ["--queue=%s:%d" % (queue, self.QUEUES[queue])] * bool(queue)
                    words += ["--after=" + other for other in after] + ["--after-ok=" + other for other in after_ok]
                    done = cli(self.store, "run", *words, "--id", job_id, "--startsecs=0", "-c", line)
                    if done.returncode == 0:
                        self.note("submitted", job_id)
                    elif done.returncode not in (-9, 126 if after_ok else -9) and not any(  # we kill monitors, too
                            fine in done.stderr for fine in ("there is no job", NOT_STARTED, "nobody can tell what became")):
                        problems.append("run: exit code %d: %s" % (done.returncode, done.stderr[-500:]))
            except nodejobs.UnknownJob:
                pass
            except Exception as error:
                if NOT_STARTED not in str(error):
                    problems.append("run: %s: %s" % (type(error).__name__, error))
            time.sleep(random.random() * 0.1)
        return problems

    def meddler(self, place, random, until):
        problems, ids = [], []
        while time.monotonic() < until:
            ids = [words[1] for words in self.said() if words[0] == "wants"][-12:] or ids
            verb = random.choice(["stop", "stop", "remove", "first", "pause", "wait", "prune", "start"])
            job_id = random.choice(ids or ["job-0-0"])
            try:
                if verb == "stop":
                    self.jobs.stop(job_id, grace=0.2)
                elif verb == "remove":
                    self.jobs.remove(job_id)
                    self.note("removed", job_id)
                elif verb == "first":
                    self.jobs.first(job_id)
                elif verb == "pause":
                    queue = random.choice(["one", "two"])
                    self.jobs.pause(queue)
                    time.sleep(random.random() * 0.2)
                    self.jobs.resume(queue)
                elif verb == "wait":
                    self.jobs.wait(job_id, 0.2)
                elif verb == "prune":
                    self.jobs.prune()
                else:
                    self.jobs.start_due()
            except (nodejobs.UnknownJob, nodejobs.JobRunning):
                pass
            except nodejobs.NodejobsError as error:
                if not (verb == "first" and "waits in no queue" in str(error)
                        or verb == "pause" and "there is no queue" in str(error)):
                    problems.append("%s: %s: %s" % (verb, type(error).__name__, error))
            except Exception as error:
                problems.append("%s: %s: %s" % (verb, type(error).__name__, error))
            time.sleep(random.random() * 0.1)
        return problems

    def reader(self, until):
        problems = []
        while time.monotonic() < until and len(problems) < 5:
            before = self.said()
            try:
                records = self.jobs.list_status()
                self.jobs.queues()
            except Exception as error:
                problems.append("list: %s: %s" % (type(error).__name__, error))
                continue
            ended = {words[1] for words in self.said() if words[0] == "end"}
            for words in before:
                record = records.get(words[1])
                if record is not None and words[0] == "begin" and record.status in ("queued", "failed_start"):
                    problems.append("%s has begun and is told %s" % (words[1], record.status))
            problems += ["%s has not come to its end and is told finished" % record.self_id
                         for record in records.values() if record.status == "finished" and record.self_id not in ended]
            problems += ["%s: %s" % (record.self_id, record.error) for record in records.values()
                         if record.status not in ACTIVE + ENDED or "damaged" in str(record.error)
                         or record.status == "queued" and record.error]
        return sorted(set(problems))[:3]

    def killer(self, random, until):
        """Kill command lines, starters and monitors, whichever are there."""
        while time.monotonic() < until:
            found = []
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    words = pathlib.Path("/proc", name, "cmdline").read_bytes().split(b"\0")
                    if {b"nodejobs-starter", b"nodejobs-monitor", os.fsencode(str(FILE))} & set(words):
                        found.append(int(name))
            if found:
                kill(random.choice(found))
            time.sleep(random.random() * 0.2)
        return []

    def crowded(self):
        return ["more than there are slots: %s" % [words[1] for words in self.said() if words[0] == "crowded"]] * any(
            words[0] == "crowded" for words in self.said())

    def verdict(self):
        """Return what has become of all of them that is not as it should be."""
        records, said = self.jobs.list_status(), self.said()
        at, count, problems = {}, collections.Counter(), self.crowded() + self.left()
        for number, words in enumerate(said):
            at.setdefault((words[0], words[1]), number)
            count[words[0], words[1]] += 1
        for words in said:
            if words[0] != "wants":
                continue
            job_id, record = words[1], records.get(words[1])
            status, begun = record and record.status, count["begin", job_id]
            if begun > 1:
                problems.append("%s began %d times" % (job_id, begun))
            if record is None and ("submitted", job_id) in at and ("removed", job_id) not in at:
                problems.append("%s was submitted, and is gone" % job_id)
            if ("removed", job_id) in at and at.get(("begin", job_id), -1) > at["removed", job_id]:
                problems.append("%s was removed, and began then" % job_id)
            if record is not None and (
                    status not in ENDED or status == "finished" and not count["end", job_id]
                    or status == "failed_start" and begun or status == "stopped" and not record.stopped_by):
                problems.append("%s is told %s, %s, and began %d times" % (job_id, status, record.error, begun))
            for needed in words[3:]:
                over = at.get(("end", needed), -1)
                if begun and ("begin", needed) in at and ("end", needed) in at and over > at["begin", job_id]:
                    problems.append("%s began before %s had ended" % (job_id, needed))
                if begun and words[2] == "after_ok" and needed in records and records[needed].status != "finished":
                    problems.append("%s began, and %s is %s" % (job_id, needed, records[needed].status))
        return problems


@attack("queues: a storm")
@contained
def storm(room):
    for turn in range(room.size(20, 2)):
        line = Storm(room.path / str(turn))
        until, seeds = time.monotonic() + room.size(8, 4), [room.random.getrandbits(32) for _ in range(10)]

        def act(place):
            random = Random(seeds[place])
            if place < 4:
                return line.submitter(place, random, until)
            if place < 7:
                return line.meddler(place, random, until)
            return line.reader(until) if place < 8 else line.killer(random, until) if turn % 4 != 3 else []
        for place, result in enumerate(crowd(9, act)):
            problems = [result] if isinstance(result, str) else sorted(set(result))
            role = (["submitter"] * 4 + ["meddler"] * 3 + ["reader", "killer"])[place]
            yield "turn %d, %s" % (turn, role), problems[:4]
        line.quiet(60)
        problems = []
        for queue in ("one", "two"):  # the last one asks; by now it may be pruned
            line.jobs.resume(queue, Storm.QUEUES[queue])
        line.quiet(60)
        problems += line.verdict()
        yield "turn %d, at the end, of %d" % (turn, len(line.began())), problems[:8]
        line.clean()


@attack("queues: all monitors killed")
@contained
def orphans(room):
    for number in range(room.size(4 * len(ASKERS), 4)):
        slots, too = 1 + number % 2, number // 2 % 2
        line = Line(room.path / str(number), slots)
        ids = ["job-%d" % place for place in range(6)]
        for job_id in ids:
            line.submit(job_id, gate=job_id in ids[:slots], slots=slots)
        eventually(lambda: len(line.began()) == slots)
        records = [line.jobs.get_status(job_id) for job_id in ids[:slots]]
        end([record.monitor_pid for record in records])
        problems = []
        if too:
            end([record.last_pid for record in records])
            for record in records:
                line.note_end(record.self_id, record.last_pid)
        else:
            for asker in (0, 2, 3, 4, 5):  # while they live they keep their slots
                problems += ask_any(line, asker, ids[-1], "-%d" % asker)
            shown, wrong = line.look()
            told = [(job_id, shown[job_id].status, shown[job_id].monitored) for job_id in ids[:slots]]
            problems += wrong + ["while it lives, %s is told %s, monitored %s" % it for it in told
                                 if it[1:] != ("running", False)]
            problems += ["began though the slots were taken: %s" % line.began()] * (len(line.began()) != slots)
            for job_id in ids[:slots]:
                line.release(job_id)
            eventually(lambda: not any(is_alive(record.last_pid) for record in records))
        shown, wrong = line.look(True)
        problems += wrong + ["nobody has asked, and there are %s" % line.workers()] * bool(line.workers())
        problems += ["%s is told %s" % (job_id, shown[job_id].status) for job_id in ids if shown[job_id].status != (
            "lost" if job_id in ids[:slots] else "queued")]
        asker = number // 4 if room.full else (4, 5, 0, 2)[number % 4]
        problems += ask_any(line, asker, ids[-1], "")
        problems += ["no quiet"] * (not line.quiet())
        shown, wrong = line.look()
        problems += wrong + line.crowded() + line.left()
        problems += ["%s is told %s" % (job_id, record.status) for job_id, record in shown.items() if record.status != (
            "lost" if job_id in ids[:slots] else "finished")]
        problems += ["not in order: %s" % line.began()] * (slots == 1 and line.began()[:6] != ids)
        yield "%d slots, commands %s, asked by %s" % (
            slots, "killed" if too else "left", ASKERS[asker % len(ASKERS)]), problems
        line.clean()


@attack("queues: monitor killed before its command has a session")
@contained
def unborn(room):
    for number in range(room.size(len(ASKERS), 2)):
        case = Struck(room, number, "its child")
        case.meet()
        eventually(lambda: case.jobs.get_status(case.b).last_pid)
        record = case.jobs.get_status(case.b)
        eventually(lambda: not list(case.store.glob("*/*/%s.launch" % record.cookie))
                   and state_of(record.monitor_pid) == "S")
        end([record.monitor_pid])  # it has permitted the command to execute
        problems = []
        try:
            case.launcher.communicate(timeout=10)
            problems += ask_any(case, number, case.c, "-0") if ASKERS[number] != "wait" else []
        except subprocess.TimeoutExpired:
            problems.append("its asker starts the next one meanwhile")
        shown, wrong = case.look()
        status = shown[case.b].status
        problems += wrong + ["it is about to execute and is told %s" % status] * (status != "running")
        (case.place / "gate").write_text("!")
        problems += ["no quiet"] * (not case.quiet())
        problems += ask_any(case, number, case.c, "-1") + ["no quiet"] * (not case.quiet())
        problems += case.crowded() + case.left() + ["%s is told %s" % (job_id, record.status) for job_id, record in
                                                    case.look()[0].items() if record.status not in ("finished", "lost")]
        yield "asked by %s" % ASKERS[number], problems
        case.clean()
