"""A run is an id, a number and a cookie: whoever waits for, follows or stops one gets no answer about another.

Twins are two `run --wait` of one id at the same moment: each exits with the code of its own command, or says that it
was not started. Then somebody removes a job and runs its id again, so that the new run has the same number too, in
the very moment in which others look again at the run that they wait for, follow or stop.

The witnesses are files that the commands write, and the processes themselves; nodejobs is asked last.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

import nodejobs
from crowds import crowd
from harness import FILE, PYTHON, Missing, attack, contained, end, eventually, is_alive, kill, suspend, wrong

SECONDS = 30  # until whoever has not answered hangs


def started(*words, stdin=subprocess.DEVNULL):
    """Start a Python with these words; return its process. Without buffers, so that a line can be read from it."""
    return subprocess.Popen([PYTHON, *map(str, words)], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            bufsize=0)


def answer_of(process):
    """Return (exit code, stdout, stderr); the exit code is None where it hangs."""
    try:
        code, (output, errors) = 0, process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code, (output, errors) = None, process.communicate()
    return code if code is None else process.returncode, output.decode(), errors.decode()


# ------ twins ------

TWIN = """
import os, sys, time
sys.path.insert(0, %r)
import nodejobs
os.read(0, 1)  # all of them are let go by the end of one pipe
time.sleep(float(sys.argv.pop(1)))
sys.exit(nodejobs.main())
""" % str(FILE.parent)


def twin_words(number, witness, way, seconds):
    """Return the words of a run that exits with this number, and leaves a file if its command ran."""
    line = "echo own-%d; : > %s; %sexit %d" % (number, witness, "sleep %g; " % seconds if seconds else "", number)
    return ["run", "--id", "twin", way, "-c", line]


def twin_problems(number, ran, answer, way):
    """Return what is wrong with one twin's answer."""
    code, output, errors = answer
    told = "exit code %s: %r %r" % (code, output[-200:], errors[-200:])
    if not ran:
        return ["its command never ran: " + told] * (code != 125 or "not started" not in errors)
    problems = ["%d should be its exit code: %s" % (number, told)] * (code != number)
    if way == "--follow" and output != "own-%d\n" % number:
        problems.append("it shows what is not its own: " + told)
    return problems


@attack("identity: twins of one id under run --wait")
def twins(room):
    ways, chance = ("--wait", "--wait", "--follow"), room.random
    for turn in range(room.size(150, 6)):
        store, codes = room.path / ("db-%d" % (turn % 3)), (0, 7, 9)[:2 + turn % 5 // 4]  # now and then they are three
        way, problems, processes = ways[turn % 3], [], []
        witnesses = [room.path / ("ran-%d-%d" % (turn, number)) for number in codes]
        barrier, gate = os.pipe()
        for number, witness in zip(codes, witnesses):
            words = twin_words(number, witness, way, chance.choice((0, 0, 0.02)))
            delay = "%g" % (chance.uniform(0, 0.03) if processes else 0)  # the moment is what is tried
            processes.append(started("-c", TWIN, delay, "--db", store, *words, stdin=barrier))
        os.close(barrier)
        os.close(gate)
        answers = [answer_of(process) for process in processes]
        for number, witness, answer in zip(codes, witnesses, answers):
            problems += twin_problems(number, witness.exists(), answer, way)
        problems += ["none of them ran"] * (not any(witness.exists() for witness in witnesses))
        yield "%d of them, %s, turn %d" % (len(codes), way, turn), problems
    for turn in range(room.size(30, 3) if hasattr(os, "pidfd_open") else 0):
        yield "one is slow, %s, turn %d" % (ways[turn % 3], turn), slow_twin(room, ways[turn % 3], turn)


def slow_twin(room, way, turn):
    """Suspend the first twin while it waits for its own run, until the second one has run as well."""
    store, go, witness = room.path / "slow", room.path / ("go-slow-%d" % turn), room.path / ("slow-%d" % turn)
    line = "echo own-7; until [ -e %s ]; do sleep 0.01; done; exit 7" % go
    slow = started(FILE, "--db", store, "run", "--id", "twin", way, "-c", line)
    eventually(lambda: awaits(slow.pid))  # so it holds no lock
    suspend(slow.pid)
    try:
        go.touch()
        nodejobs.Jobs(store).wait("twin", SECONDS)
        quick = answer_of(started(FILE, "--db", store, *twin_words(9, witness, way, 0)))
    finally:
        kill(slow.pid, signal.SIGCONT)
    problems = twin_problems(7, True, answer_of(slow), way) + twin_problems(9, witness.exists(), quick, way)
    return problems + ["the second one did not run"] * (not witness.exists())


def library_twin(store, number):
    """Run the one id until it ends; return what is wrong with the record, or "refused"."""
    try:
        record = nodejobs.Jobs(store).run("exit %d" % number, "twin", startsecs=20)
    except nodejobs.JobRunning:
        return "refused"
    return wrong(record, exit_code=number, command="exit %d" % number, status="failed" if number else "finished")


@attack("identity: twins of one id in Jobs.run")
@contained
def library_twins(room):
    store = room.path / "db"
    for turn in range(room.size(150, 15)):
        results = crowd(3, lambda place: library_twin(store, place))
        problems = [str(result) for result in results if result not in ("refused", [])]
        yield "turn %d" % turn, problems + ["none was started"] * (results == ["refused"] * 3)


# ------ somebody removes it and runs it again ------

SECOND = "trap 'echo hit >> {0}' TERM INT HUP; echo second; : > {0}.up; while :; do sleep 0.02; done"
BINDER = """
import json, sys
sys.path.insert(0, %r)
import nodejobs
for event in nodejobs.Jobs(sys.argv[1]).bind("x", from_beginning=True):
    print(json.dumps([event.type, event.text, event.status, event.id]), flush=True)
""" % str(FILE.parent)


def run_again(jobs, hit, delay):
    """Remove a job at the first moment at which that is allowed, and run its id again; return the new run's record."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            jobs.remove("x")
            break
        except nodejobs.JobRunning:
            if time.monotonic() > deadline:
                raise
    time.sleep(delay)
    record = jobs.run(SECOND.format(hit), "x", startsecs=0)
    eventually(lambda: os.path.exists("%s.up" % hit))
    return record


def second_problems(second, hit):
    """Return what was done to the second run, which nobody was to touch."""
    problems = ["the new run was signalled"] * os.path.exists(str(hit))
    problems += ["the new run was killed"] * (not is_alive(second.last_pid))
    written = pathlib.Path(second.logdir, "journal.jsonl").read_text()
    return problems + ["a stop is written in the journal of the new run"] * ("stopping" in written)


def awaits(pid):
    """Tell whether a process holds a pidfd: it waits for a run's processes, so it has chosen its run."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/%d/fd" % pid):
            with contextlib.suppress(OSError):
                if "pidfd" in os.readlink("/proc/%d/fd/%s" % (pid, name)):
                    return True
    return False


def printed(path):
    return os.path.exists(path) and os.path.getsize(path) > 0


class Case:
    """A first run of `x`, and who deals with it."""

    def __init__(self, room, turn, slow):
        self.store, self.slow = room.path / ("again-%d" % turn), slow
        self.jobs = nodejobs.Jobs(self.store)
        self.go, self.hit, self.asked = [room.path / ("%s-%d" % (name, turn)) for name in ("go", "hit", "asked")]
        self.line = "echo first; until [ -e %s ]; do sleep 0.01; done; echo last; exit 7" % self.go
        self.stoppable = "trap 'echo asked > %s; sleep %g; exit 0' TERM; echo first; while :; do sleep 0.01; done" % (
            self.asked, room.random.choice((0, 0, 0.02, 0.1)))
        self.delay = room.random.choice((0, 0, 0, 0.002, 0.01, 0.03))

    def swap(self, process):
        """Let the first run end, and a second one take its place; a slow process is suspended meanwhile."""
        if self.slow:
            suspend(process.pid)
        self.go.touch()
        try:
            return run_again(self.jobs, self.hit, self.delay)
        finally:
            kill(process.pid, signal.SIGCONT)

    def follower(self, *words):
        """Start words that show the first run's output; return (process, first) when they have shown some."""
        first = None if words[0] == "run" else self.jobs.run(self.line, "x", startsecs=0)
        if words[0] == "bind":
            process = started("-c", BINDER, self.store)
        else:
            process = started(FILE, "--db", self.store, *words, *(["-c", self.line] if words[0] == "run" else []))
        process.seen = process.stdout.readline().decode()  # it has chosen its run
        return process, first or self.jobs.get_status("x")


def follow_case(case, *words):
    process, first = case.follower(*words)
    second = case.swap(process)
    code, output, errors = answer_of(process)
    output = process.seen + output
    told = "exit code %s: %r %r" % (code, output[-300:], errors[-300:])
    problems = second_problems(second, case.hit)
    if words[0] == "bind":
        events = [json.loads(line) for line in output.splitlines()]
        text = "".join(text for kind, text, _, _ in events if kind == "stdout")
        problems += ["an event of another run: %s" % event for event in events
                     if event[3].split(".")[2] != first.cookie[:8]]
        shown, codes = text or "first\n", (0,)  # it may have been removed before its log was opened
    else:
        shown, codes = output, (7, 125) if words[0] == "run" else (0, 125)
    problems += ["it hangs: " + told] * (code is None) + [told] * (code not in (None, *codes))
    return problems + ["it shows what is not of its run: " + told] * (shown not in ("first\n", "first\nlast\n"))


def wait_case(case, *words):
    """Let the command line wait for the first run, by an id that is soon another's."""
    if words[0] == "run":
        process = started(FILE, "--db", case.store, *words, "-c", case.line)
        first = eventually(lambda: case.jobs.get_status("x"))
    else:
        first = case.jobs.run(case.line, "x", startsecs=0)
        process = started(FILE, "--db", case.store, *words)
    chosen = eventually(lambda: awaits(process.pid) and case.jobs.get_status("x").last_pid)
    first = case.jobs.get_status("x")
    second = case.swap(process)
    code, output, errors = answer_of(process)
    told = "exit code %s: %r %r" % (code, output[-300:], errors[-300:])
    problems = second_problems(second, case.hit) + ["the attack is broken: it was not seen to wait"] * (not chosen)
    if "--json" in words and output.strip():
        cookie = json.loads(output)["cookie"]
        problems += ["its answer is about another run: " + told] * (cookie != first.cookie)
    return problems + ["it hangs: " + told] * (code is None) + [told] * (code not in (7, 125, None))


def stop_case(case, room, early):
    """Stop the first run, by an id that is soon another's; `early`: it may be another's before stop has looked."""
    first = case.jobs.run(case.line if early else case.stoppable, "x", startsecs=0)
    eventually(lambda: printed(first.stdout_path))
    process = started(FILE, "--db", case.store, "stop", "x", "--grace", "5", "--json")
    if early:
        time.sleep(room.random.uniform(0, 0.3))  # the moment is what is tried
        case.slow = False  # it may hold a lock
    else:
        eventually(case.asked.exists)
    second = case.swap(process)
    code, output, errors = answer_of(process)
    told = "exit code %s: %r %r" % (code, output[-300:], errors[-300:])
    record = json.loads(output) if output.strip() else {}
    if early and record.get("cookie") == second.cookie:  # it came so late that the new one is what it was asked to stop
        return ["it was not stopped: " + told] * (record.get("status") != "stopped" or is_alive(second.last_pid))
    problems = second_problems(second, case.hit)
    problems += ["its answer is about another run: " + told] * (record.get("cookie", first.cookie) != first.cookie)
    return problems + [told] * (code not in (0, 125) or "lives on" in errors or "Traceback" in errors)


KINDS = {
    "stop": lambda case, room: stop_case(case, room, False),
    "stop, at its first look": lambda case, room: stop_case(case, room, True),
    "wait": lambda case, room: wait_case(case, "wait", "x", "--json"),
    "run --wait": lambda case, room: wait_case(case, "run", "--id", "x", "--wait"),
    "run --follow": lambda case, room: follow_case(case, "run", "--id", "x", "--follow"),
    "logs -f": lambda case, room: follow_case(case, "logs", "-f", "x"),
    "bind": lambda case, room: follow_case(case, "bind"),
}


@attack("identity: remove and rerun under stop, wait and follow")
def remove_and_rerun(room):
    if not hasattr(os, "pidfd_open"):
        raise Missing("os.pidfd_open, by which it is seen who waits for what")
    turn = 0
    for lap in range(room.size(12, 1)):
        for kind in KINDS:
            turn += 1
            case = Case(room, turn, slow=lap % 2 == 0)
            try:
                problems = KINDS[kind](case, room)
            except nodejobs.NodejobsError as error:
                problems = ["%s: %s" % (type(error).__name__, error)]
            record = case.jobs.get_status("x")
            if record is not None and not record.ended:
                end([pid for pid in (record.last_pid, record.monitor_pid) if pid])
            yield "%s, turn %d" % (kind, turn), problems
