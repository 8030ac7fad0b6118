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
import subprocess
import time

import nodejobs
from crowds import crowd
from harness import FILE, PYTHON, Missing, attack, contained, end, eventually, is_alive, wrong

SECONDS = 40  # until whoever has not answered hangs


def started(store, *words):
    """Start the command line; return its process."""
    return subprocess.Popen([PYTHON, str(FILE), "--db", str(store), *words], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def answer_of(process):
    """Return (exit code, stdout, stderr); the exit code is None where it hangs."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        process.kill()
        return (None, *process.communicate())


# ------ twins ------

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
    for turn in range(room.size(150, 8)):
        store, codes = room.path / ("db-%d" % (turn % 3)), (0, 7, 9)[:2 + turn % 5 // 4]  # now and then they are three
        way, problems, processes = ways[turn % 3], [], []
        witnesses = [room.path / ("ran-%d-%d" % (turn, number)) for number in codes]
        for number, witness in zip(codes, witnesses):
            processes.append(started(store, *twin_words(number, witness, way, chance.choice((0, 0, 0.02)))))
            time.sleep(chance.choice((0, 0, 0.005, 0.02, 0.05)))  # the moment is what is tried
        answers = [answer_of(process) for process in processes]
        for number, witness, answer in zip(codes, witnesses, answers):
            problems += twin_problems(number, witness.exists(), answer, way)
        problems += ["none of them ran"] * (not any(witness.exists() for witness in witnesses))
        yield "%d of them, %s, turn %d" % (len(codes), way, turn), problems


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

    def __init__(self, room, turn):
        self.store, self.turn = room.path / ("again-%d" % turn), turn
        self.jobs, self.go, self.hit = nodejobs.Jobs(self.store), room.path / ("go-%d" % turn), room.path / ("hit-%d" % turn)
        self.asked = room.path / ("asked-%d" % turn)
        self.line = "echo first; until [ -e %s ]; do sleep 0.01; done; echo last; exit 7" % self.go
        self.stoppable = "trap 'echo asked > %s; sleep %g; exit 0' TERM; echo first; while :; do sleep 0.01; done" % (
            self.asked, room.random.choice((0, 0, 0.02, 0.1)))
        self.delay = room.random.choice((0, 0, 0, 0.002, 0.01, 0.03))

    def follower(self, *words):
        """Start words that show the first run's output; return (process, first) when they have shown some."""
        first = None if words[0] == "run" else self.jobs.run(self.line, "x", startsecs=0)
        if words[0] == "bind":
            process = subprocess.Popen([PYTHON, "-u", "-c", BINDER, str(self.store)], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        else:
            process = started(self.store, *words, *(["-c", self.line] if words[0] == "run" else []))
        process.seen = process.stdout.readline()  # it has chosen its run
        return process, first or self.jobs.get_status("x")


def follow_case(case, *words):
    process, first = case.follower(*words)
    case.go.touch()
    second = run_again(case.jobs, case.hit, case.delay)
    code, output, errors = answer_of(process)
    output = process.seen + output
    told = "exit code %s: %r %r" % (code, output[-300:], errors[-300:])
    problems = second_problems(second, case.hit)
    if words[0] == "bind":
        events = [json.loads(line) for line in output.splitlines()]
        text = "".join(text for kind, text, _, _ in events if kind == "stdout")
        problems += ["an event of another run: %s" % event for event in events if event[3].split(".")[2] != first.cookie[:8]]
        right, codes = text, (0,)
    else:
        right, codes = output, (7, 125) if words[0] == "run" else (0, 125)
    problems += ["it hangs: " + told] * (code is None)
    problems += ["%s" % told] * (code is not None and code not in codes)
    return problems + ["it shows what is not of its run: " + told] * (right not in ("first\n", "first\nlast\n"))


def wait_case(case, *words):
    """Let the command line wait for the first run, by an id that is soon another's."""
    if words[0] == "run":
        process = started(case.store, *words, "-c", case.line)
        first = eventually(lambda: case.jobs.get_status("x"))
    else:
        first = case.jobs.run(case.line, "x", startsecs=0)
        process = started(case.store, *words)
    chosen = eventually(lambda: awaits(process.pid) and case.jobs.get_status("x").last_pid)
    first = case.jobs.get_status("x")
    case.go.touch()
    second = run_again(case.jobs, case.hit, case.delay)
    code, output, errors = answer_of(process)
    told = "exit code %s: %r %r" % (code, output[-300:], errors[-300:])
    problems = second_problems(second, case.hit) + ["the attack is broken: it was not seen to wait"] * (not chosen)
    if "--json" in words and output.strip():
        cookie = json.loads(output)["cookie"]
        problems += ["its answer is about another run: " + told] * (cookie != first.cookie)
    return problems + ["it hangs" + told] * (code is None) + [told] * (code not in (7, 125, None))


def stop_case(case, room, early):
    """Stop the first run, by an id that is soon another's; `early`: it may be another's before stop has looked."""
    first = case.jobs.run(case.line if early else case.stoppable, "x", startsecs=0)
    eventually(lambda: printed(first.stdout_path))
    process = started(case.store, "stop", "x", "--grace", "5", "--json")
    if early:
        time.sleep(room.random.uniform(0, 0.3))  # the moment is what is tried
        case.go.touch()
    else:
        eventually(case.asked.exists)
    second = run_again(case.jobs, case.hit, 0 if early else case.delay)
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
    for _ in range(room.size(15, 1)):
        for kind in KINDS:
            turn += 1
            case = Case(room, turn)
            try:
                problems = KINDS[kind](case, room)
            except nodejobs.NodejobsError as error:
                problems = ["%s: %s" % (type(error).__name__, error)]
            record = case.jobs.get_status("x")
            if record is not None and not record.ended:
                end([pid for pid in (record.last_pid, record.monitor_pid) if pid])
            yield "%s, turn %d" % (kind, turn), problems
