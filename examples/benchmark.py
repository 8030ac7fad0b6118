#!/usr/bin/env python3
"""Measure every figure that nodejobs promises, each beside its floor in the same interleaved run.

    make bench                        all rows
    python3 examples/benchmark.py -n 20 start stop      these rows, twenty rounds

The floor is a bare `python3 -I -S -c pass` of the interpreter itself, or the plain system calls on the
same files. A row that falls short of its budget is marked; then the exit code is 1. Machines are noisy:
look at the medians, and run it again before you believe a surprise.

Where nq, tsp (task-spooler) and the original nodejobs are installed, they are measured beside us. The
original is looked for in the Python that $UPSTREAM_PYTHON names (it needs psutil).
"""
import argparse
import contextlib
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
FILE = HERE.parent / "nodejobs.py"
sys.path.insert(0, str(HERE.parent))
import nodejobs  # noqa: E402

PYTHON = os.path.realpath(sys.executable)
ROWS = []


def row(function):
    ROWS.append(function)
    return function


def timed(function, *arguments):
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    function(*arguments)
    return (time.perf_counter() - began) * 1000


def p90(values):
    return sorted(values)[int(len(values) * 0.9)]


def spawn(*words, **options):
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def floor():
    """Run the bare interpreter once, by the cheapest means there is."""
    os.waitpid(os.posix_spawn(PYTHON, [PYTHON, "-I", "-S", "-c", "pass"], os.environ), 0)


class Result:
    """One line of the table."""

    def __init__(self, name, unit, ours, base=None, budget=None, better="less", note=""):
        # ours and base are lists of figures of the same rounds; with a base, the budget is for ours / base
        self.name, self.unit, self.ours, self.base, self.budget = name, unit, ours, base, budget
        self.better, self.note = better, note

    @property
    def figure(self):
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.base) if self.base else ours

    @property
    def holds(self):
        if self.budget is None:
            return True
        return self.figure >= self.budget if self.better == "more" else self.figure <= self.budget

    def line(self):
        base = "%9.3f %9.3f" % (min(self.base), statistics.median(self.base)) if self.base else " " * 19
        figure = "%.3g%s" % (self.figure, "x" if self.base else " " + self.unit)
        budget = "" if self.budget is None else "%s %g" % (">=" if self.better == "more" else "<=", self.budget)
        verdict = "" if self.budget is None else "holds" if self.holds else "FALLS SHORT"
        return "%-46s %-4s %9.3f %9.3f %s %10s %8s  %s%s" % (
            self.name, self.unit, min(self.ours), statistics.median(self.ours), base, figure, budget, verdict, self.note)


def private_kb(pid):
    """Return the private memory of a process in KiB."""
    lines = pathlib.Path("/proc/%d/smaps_rollup" % pid).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def processor_seconds(pid):
    """Return the processor time of a process by the scheduler's own clock, which is finer than ticks."""
    return int(pathlib.Path("/proc/%d/schedstat" % pid).read_text().split()[0]) / 1e9


def activity(pid):
    """Return (CPU ticks, context switches) of a process so far."""
    ticks = pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[11:13]
    status = pathlib.Path("/proc/%d/status" % pid).read_text().splitlines()
    return sum(map(int, ticks)), sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


@row
def start(jobs, rounds):
    base, ours, both = [], [], []
    for number in range(rounds):
        base.append(timed(floor))
        ours.append(timed(lambda: jobs.run(["true"], "start-%d" % number, startsecs=0)))
        jobs.wait("start-%d" % number)

        def run_and_wait():
            jobs.run(["true"], "both-%d" % number, startsecs=0)
            jobs.wait("both-%d" % number)
        both.append(timed(run_and_wait))
    yield Result("Jobs.run(startsecs=0) / bare Python", "ms", ours, base, 1.4)
    yield Result("run + wait of `true` / bare Python", "ms", both, base, 1.8)


@row
def memory(jobs, rounds):
    base, ours = [], []
    for _ in range(5):
        bare = subprocess.Popen([PYTHON, "-I", "-S", "-c", "import time; time.sleep(60)"])
        record = jobs.run(["sleep", "60"], "memory", startsecs=0)
        time.sleep(0.1)  # both have come to rest
        base.append(private_kb(bare.pid) / 1024.0)
        ours.append(private_kb(record.monitor_pid) / 1024.0)
        bare.kill()
        bare.wait()
        jobs.stop("memory")
    yield Result("private memory of a monitor / bare Python", "MiB", ours, base, 1.17)


@row
def idle(jobs, rounds):
    ids = ["idle-%d" % number for number in range(20)]
    monitors = [jobs.run(["sleep", "60"], job_id, startsecs=0).monitor_pid for job_id in ids]
    time.sleep(0.3)
    before = [activity(pid) for pid in monitors]
    time.sleep(5)
    after = [activity(pid) for pid in monitors]
    yield Result("CPU of 20 monitors in 5 s", "tick", [float(sum(b[0] - a[0] for a, b in zip(before, after)))], None, 0)
    yield Result("wake-ups of 20 monitors in 5 s", "", [float(sum(b[1] - a[1] for a, b in zip(before, after)))], None, 0)
    for job_id in ids:
        jobs.stop(job_id)


def fill(directory, number):
    """Make a store of so many finished jobs out of one real one."""
    jobs = nodejobs.Jobs(directory)
    jobs.run(["true"], "seed")
    journal = (pathlib.Path(directory) / "seed" / "000001" / "journal.jsonl").read_bytes()
    for index in range(number - 1):
        path = pathlib.Path(directory) / ("job-%05d" % index) / "000001"
        path.mkdir(parents=True)
        (path / "journal.jsonl").write_bytes(journal)
    return jobs


@row
def reading(jobs, rounds):
    small, large = fill(jobs.db_path + "-100", 100), fill(jobs.db_path + "-10000", 10000)
    paths = sorted(str(path) for path in pathlib.Path(large.db_path).glob("*/*/journal.jsonl"))

    def bare():
        records = {}
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            lines = os.read(fd, 65536).splitlines()
            os.close(fd)
            record = records[path] = {}
            for line in lines:
                record.update(json.loads(line))
        assert len(records) == 10000
    base, ours, few, many, floors = [], [], [], [], []
    for _ in range(max(5, rounds // 5)):
        base.append(timed(bare))
        ours.append(timed(lambda: large.list_status()))
    for _ in range(rounds * 20):
        few.append(timed(lambda: small.get_status("job-00050")))
        many.append(timed(lambda: large.get_status("job-05000")))
    for _ in range(rounds):
        floors.append(timed(floor))
    yield Result("list_status of 10,000 / bare read and parse", "ms", ours, base, 1.3)
    yield Result("get_status among 10,000 / bare Python", "ms", many, floors, 0.01)
    yield Result("get_status among 10,000 / among 100", "ms", many, few, 1.2)


@row
def throughput(jobs, rounds):
    command = ["head", "-c", str(256 << 20), "/dev/zero"]
    base, ours, capped = [], [], []
    target = pathlib.Path(jobs.db_path + "-redirected")
    for number in range(8):
        os.sync()
        with open(str(target), "wb") as file:
            began = time.perf_counter()
            subprocess.check_call(command, stdout=file)
            base.append(256 / (time.perf_counter() - began))
        target.unlink()
        os.sync()
        jobs.run(command, "throughput", startsecs=0)
        ours.append(256 / jobs.wait("throughput").duration)
        jobs.run(command, "capped", startsecs=0, max_log=10 << 20)
        capped.append(256 / jobs.wait("capped").duration)
        jobs.remove("throughput")
    yield Result("throughput of output / plain redirection", "MB/s", ours, base, 0.95, better="more")
    yield Result("throughput with max_log / plain redirection", "MB/s", capped, base, 0.5, better="more")


@row
def stop(jobs, rounds):
    def stops():
        figures = []
        for _ in range(rounds):
            jobs.run(["sleep", "60"], "stop", startsecs=0)
            floors.append(timed(floor))
            figures.append(timed(lambda: jobs.stop("stop")))
        return figures
    floors = []
    alone = stops()
    crowd = [subprocess.Popen(["sleep", "600"]) for _ in range(500)]
    try:
        among = stops()
    finally:
        for process in crowd:
            process.kill()
        for process in crowd:
            process.wait()
    yield Result("stop, p90 / bare Python", "ms", [p90(alone)], floors, 1.6)
    yield Result("stop among 500 others, p90 / bare Python", "ms", [p90(among)], floors, 5)


@row
def wait(jobs, rounds):
    fifo = jobs.db_path + "-fifo"
    os.mkfifo(fifo)
    figures, floors = [], []
    for _ in range(rounds):
        floors.append(timed(floor))
        jobs.run(["sh", "-c", "read line < %s" % fifo], "wait", startsecs=0)
        reading, writing = os.pipe()
        trigger = os.fork()
        if not trigger:
            time.sleep(0.02)  # the waiter below is waiting by now
            os.write(writing, b"%f" % time.perf_counter())
            with open(fifo, "w") as file:
                file.write("go\n")
            os._exit(0)
        jobs.wait("wait")
        ended = time.perf_counter()
        figures.append((ended - float(os.read(reading, 100))) * 1000)
        os.close(reading)
        os.close(writing)
        os.waitpid(trigger, 0)
    yield Result("wait: from the end to its return, p90 / bare Python", "ms", [p90(figures)], floors, 0.8)


def inheritors(mark):
    """Return the processes, but ours, that have inherited this text in their environment: all that we have started."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid():
                if mark in pathlib.Path("/proc", name, "environ").read_text(errors="replace"):
                    found.append(int(name))
    return found


def memory_of(pids):
    """Return the private memory of processes in MiB; what has just ended has none."""
    kibibytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            kibibytes += private_kb(pid)
    return kibibytes / 1024.0


class NodejobsQueue:
    def __init__(self, jobs, slots):
        self.jobs, self.name, self.slots, self.added = jobs, "%d-slots" % slots, slots, 0

    def add(self, *words):
        self.added += 1
        self.jobs.run(list(words), "%s-%06d" % (self.name, self.added), startsecs=0, queue=self.name, slots=self.slots)

    def close(self):
        self.jobs.pause(self.name)  # or stopping one would start the next
        for job_id in self.jobs.queues()[self.name].running:
            self.jobs.stop(job_id, grace=0)


class Spooler:
    """task-spooler, with a daemon of its own; or nq, which has one slot, and no daemon to be ended."""

    def __init__(self, program, directory, slots):
        os.mkdir(directory)
        self.program, self.mark = program, directory
        self.words = [program, "-q" if os.path.basename(program) == "nq" else "-B"]  # -B: fail where it is full
        self.environment = dict(os.environ, NQDIR=directory, TMPDIR=directory, TS_SOCKET=directory + "/socket",
                                TS_SLOTS=str(slots))
        self.slots = slots

    def add(self, *words):
        spawn(*self.words, *words, env=self.environment, check=True, timeout=60)

    def close(self):
        if self.words[1] == "-B":
            spawn(self.program, "-K", env=self.environment)
        while inheritors(self.mark):
            for pid in reversed(inheritors(self.mark)):  # the last first: what ends starts the next
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def held(queue, fifo):
    """Take all slots of a queue until a line for each is written into the file that this returns."""
    os.mkfifo(fifo)
    for _ in range(queue.slots):
        queue.add("sh", "-c", "read line < " + fifo)
    return os.open(fifo, os.O_RDWR)


def empty(queue, number, directory):
    """Return the milliseconds that each of so many `true` takes in a queue that is let go when all of them wait."""
    directory = tempfile.mkdtemp(dir=directory)
    hold = held(queue, directory + "/hold")
    os.mkfifo(directory + "/over")
    over = os.open(directory + "/over", os.O_RDWR)
    for _ in range(number):
        queue.add("true")
    for _ in range(queue.slots):
        queue.add("sh", "-c", "echo >> " + directory + "/over")
    began = time.perf_counter()
    os.write(hold, b"\n" * queue.slots)
    for _ in range(queue.slots):
        assert select.select([over], [], [], 600)[0], "a queue stands still"
        os.read(over, 1)
    ended = time.perf_counter()
    os.close(hold)
    os.close(over)
    return (ended - began) * 1000 / (number + queue.slots)


def spoolers():
    """Return {name: path} of the other queues that are installed."""
    found = {"nq": shutil.which("nq"), "tsp": shutil.which("tsp")}
    for name in found:
        if found[name] is None:
            print("%s is not installed: left out" % name)
    return {name: path for name, path in found.items() if path is not None}


@row
def queue(jobs, rounds):
    """A thousand jobs that wait; and `true` after `true` through queues of one and of two slots."""
    number, directory, programs = 25 * rounds, jobs.db_path + "-queues", spoolers()
    os.mkdir(directory)
    os.environ["NODEJOBS_BENCHMARK"] = directory  # every process that comes of this row has it
    waiting = {"queue": NodejobsQueue(nodejobs.Jobs(directory + "/waiting"), 1)}
    waiting.update({name: Spooler(path, directory + "/" + name, 1) for name, path in programs.items()})
    base = [timed(floor) for _ in range(rounds)]
    for name, line in waiting.items():
        hold = held(line, directory + "/hold-" + name)
        try:
            before = set(inheritors(directory))
            assert before, "what runs is seen"
            submitted = []
            with contextlib.suppress(subprocess.CalledProcessError):  # tsp takes no more than 1,000
                for _ in range(number):
                    submitted.append(timed(line.add, "true"))
            more = set(inheritors(directory)) - before
            text = "%%s: %%s %d waiting jobs" % len(submitted)
            yield Result(text % (name, "processes of"), "", [float(len(more))], None, 0 if name == "queue" else None)
            yield Result(text % (name, "private memory of"), "MiB", [memory_of(more)], None,
                         0 if name == "queue" else None)
            yield Result("%s: submit among few / bare Python" % name, "ms", submitted[:rounds], base)
            yield Result(text % (name, "submit among") + " / bare", "ms", submitted[-rounds:], base)
        finally:
            line.close()
            os.close(hold)
    lines = {"queue, 1 slot: `true` / bare Python": NodejobsQueue(jobs, 1),
             "queue, 2 slots: `true` / bare Python": NodejobsQueue(jobs, 2)}
    for name, path in programs.items():
        for slots in (1,) if name == "nq" else (1, 2):
            lines["%s, %d slot%s: `true` / bare Python" % (name, slots, "s" * (slots - 1))] = Spooler(
                path, "%s/%s-%d" % (directory, name, slots), slots)
    base, figures = [], {name: [] for name in lines}
    try:
        for _ in range(5):
            base += [timed(floor) for _ in range(rounds)]
            for name, line in lines.items():
                figures[name].append(empty(line, rounds, directory))
    finally:
        for line in lines.values():
            line.close()
    for name in lines:
        yield Result(name, "ms", figures[name], base, 2.5 if name.startswith("queue, 1 slot") else None)
    runs = list(jobs.list_status({"self_id": "1-slots-*"}).values())  # sorted by id, and so in the order of the queue
    gaps = [(after.started_clock - before.started_clock - before.duration) * 1000
            for before, after in zip(runs, runs[1:]) if before.command == after.command == ["true"]]
    yield Result("queue: from an end to the next start, median", "ms", gaps, base)
    yield Result("queue: from an end to the next start, p90", "ms", [p90(gaps)], base)
    del os.environ["NODEJOBS_BENCHMARK"]


@row
def follow(jobs, rounds):
    script = ("import random, time\nfor _ in range(%d):\n    time.sleep(random.uniform(0.02, 0.1))\n"
              "    print(time.perf_counter(), flush=True)" % (rounds * 2))
    jobs.run([PYTHON, "-c", script], "follow", startsecs=0)
    seen = []
    for event in jobs.bind("follow"):
        seen += [(time.perf_counter() - float(line)) * 1000 for line in (event.text or "").splitlines()]
    most = 40 + statistics.median([timed(floor) for _ in range(rounds)])  # its poll interval, and the floor
    yield Result("output seen by a follower, p90", "ms", [p90(seen)], None, most)
    jobs.run(["sleep", "60"], "quiet", startsecs=0)
    follower = subprocess.Popen([PYTHON, str(FILE), "--db", jobs.db_path, "logs", "-f", "quiet"])
    time.sleep(1)  # it has started and follows
    before = activity(follower.pid)[0]
    time.sleep(5)
    share = (activity(follower.pid)[0] - before) / os.sysconf("SC_CLK_TCK") / 5 * 100
    jobs.stop("quiet")
    follower.wait()
    yield Result("CPU of an idle follower", "%", [share], None, 1)


@row
def command_line(jobs, rounds):
    words = [sys.executable, str(FILE), "--db", jobs.db_path]
    jobs.run(["true"], "cli")
    prefix = jobs.db_path + "-usr"
    spawn("make", "-C", str(HERE.parent), "install", "PREFIX=" + prefix, "PYTHON=" + PYTHON, check=True)
    installed = [sys.executable, prefix + "/bin/nodejobs", "--db", jobs.db_path]
    module = [sys.executable, "-m", "nodejobs", "--db", jobs.db_path]
    base, status, run, quick, named = [], [], [], [], []
    for _ in range(rounds):
        base.append(timed(floor))
        quick.append(timed(lambda: spawn(*installed, "status", "cli", check=True)))
        named.append(timed(lambda: spawn(*module, "status", "cli", cwd=prefix + "/lib/nodejobs", check=True)))
        status.append(timed(lambda: spawn(*words, "status", "cli")))
        run.append(timed(lambda: spawn(*words, "run", "--id", "cli-run", "--startsecs", "0", "--", "true")))
        jobs.wait("cli-run")
    yield Result("script status / bare Python", "ms", status, base, 7.5)
    yield Result("script run / bare Python", "ms", run, base)
    yield Result("python -m nodejobs status / bare Python", "ms", named, base, 2.2)
    yield Result("installed status / bare Python", "ms", quick, base, 2.2)


@row
def watching(jobs, rounds):
    """examples/top.py on a terminal, with 100 jobs: 80 have ended, 20 run and have runs before to compare with."""
    fill(jobs.db_path, 80)
    for number in range(20):
        for command in (["true"], ["sleep", "60"]):
            jobs.run(command, "running-%d" % number, startsecs=0)
            if command == ["true"]:
                jobs.wait("running-%d" % number)
    pid, terminal = pty.fork()
    if not pid:
        top = str(FILE.parent / "examples" / "top.py")
        os.execve(PYTHON, [PYTHON, top, "--db", jobs.db_path], dict(os.environ, TERM="xterm"))
    figures, ended, before = [], time.monotonic() + 12, None
    while time.monotonic() < ended:
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
        elif before is None:
            before, began = processor_seconds(pid), time.monotonic()  # the first picture is drawn
    figures.append(100 * (processor_seconds(pid) - before) / (time.monotonic() - began))
    os.write(terminal, b"q")
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)
    for number in range(20):
        jobs.stop("running-%d" % number)
    yield Result("top.py of 100 jobs, of a core", "%", figures, None, 2)


@row
def weight(jobs, rounds):
    sys.path.insert(0, str(HERE.parent / ".ci"))
    import weigh
    figures = weigh.weigh(str(FILE))
    yield Result("nodes", "", [float(figures["nodes"][0])], None, weigh.MOST["nodes"])
    yield Result("nodes a line", "", [figures["nodes a line"][0]], None, weigh.MOST["nodes a line"])


@row
def importing(jobs, rounds):
    script = ("import sys, time; sys.path.insert(0, %r); sys.dont_write_bytecode = False\nbegan = time.perf_counter()\n"
              "import %s\nprint((time.perf_counter() - began) * 1000)")
    directory = jobs.db_path + "-import"
    os.mkdir(directory)
    shutil.copy(str(FILE), directory)
    figures = {"json": [], "nodejobs": []}
    for _ in range(rounds):
        for name in figures:
            figures[name].append(float(subprocess.check_output([PYTHON, "-I", "-S", "-c", script % (directory, name)])))
    yield Result("import nodejobs (compiled) / import json", "ms", figures["nodejobs"], figures["json"], 0.5)


UPSTREAM = """
import json, sys, time
from nodejobs.jobs import Jobs
jobs, figures = Jobs(db_path=sys.argv[1]), []
for number in range(5):
    began = time.perf_counter()
    record = jobs.run(command="true", job_id="job-%d" % number)
    figures.append((time.perf_counter() - began) * 1000)
print(json.dumps(figures))
"""


@row
def peers(jobs, rounds):
    """Starting one job, as each is used: from a shell, or in Python for the original."""
    directory = jobs.db_path + "-peers"
    os.mkdir(directory)
    ours = [timed(lambda: jobs.run(["true"], "peer", startsecs=0)) for _ in range(rounds) if jobs.wait("peer") or True]
    yield Result("peers: start by Jobs.run", "ms", ours)
    words = [sys.executable, str(FILE), "--db", jobs.db_path, "run", "--startsecs", "0", "--", "true"]
    yield Result("peers: start by our command line", "ms", [timed(lambda: spawn(*words)) for _ in range(rounds)])
    if shutil.which("nq"):
        environment = dict(os.environ, NQDIR=directory)
        yield Result("peers: start by nq", "ms",
                     [timed(lambda: spawn("nq", "-q", "true", env=environment)) for _ in range(rounds)])
    else:
        print("nq is not installed: left out")
    spooler = shutil.which("tsp") or shutil.which("ts")
    if spooler and "task-spooler" in os.path.realpath(spooler) or spooler and os.path.basename(spooler) == "tsp":
        environment = dict(os.environ, TS_SOCKET=directory + "/socket")
        spawn(spooler, "true", env=environment)
        yield Result("peers: start by tsp (its daemon runs)", "ms",
                     [timed(lambda: spawn(spooler, "true", env=environment)) for _ in range(rounds)])
        spawn(spooler, "-K", env=environment)
    else:
        print("tsp is not installed: left out")
    python = os.environ.get("UPSTREAM_PYTHON")
    done = python and subprocess.run([python, "-c", UPSTREAM, directory + "/upstream"], stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, cwd="/")
    if done and done.returncode == 0:
        yield Result("peers: start by the original nodejobs", "ms", json.loads(done.stdout.decode().splitlines()[-1]))
    else:
        print("the original nodejobs is not installed in $UPSTREAM_PYTHON: left out")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [function.__name__ for function in ROWS]
    parser.add_argument("-n", type=int, default=40, metavar="ROUNDS", help="rounds of each row; default 40")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these: " + ", ".join(names))
    options = parser.parse_args()
    if set(options.rows) - set(names):
        parser.error("there is no row %s; there are %s" % (sorted(set(options.rows) - set(names))[0], ", ".join(names)))
    print("Python %s, %d processors, %s" % (sys.version.split()[0], os.cpu_count(), os.uname().release))
    print("%-46s %-4s %9s %9s %9s %9s %10s %8s" % ("", "unit", "min", "median", "floor min", "median", "figure", "budget"))
    short = []
    for function in ROWS:
        if options.rows and function.__name__ not in options.rows:
            continue
        with tempfile.TemporaryDirectory(prefix="nodejobs-bench-") as directory:
            jobs = nodejobs.Jobs(directory + "/db")
            with contextlib.ExitStack() as stack:
                stack.callback(lambda: [jobs.stop(job_id, grace=0) for job_id in jobs.list({"status": "running"})])
                for result in function(jobs, options.n):
                    print(result.line(), flush=True)
                    if not result.holds:
                        short.append(result.name)
    print("all rows hold" if not short else "fall short: " + "; ".join(short))
    return 1 if short else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
