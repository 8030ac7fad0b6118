"""What all attacks share: their register, a room to work in, and the questions asked after every blow.

An attack is a generator. It takes a Room and yields, for every case, a name and a list of what was
wrong: an empty list is a promise kept. `raise Missing("why")` before the first case shows the attack
as not run, with the reason, and never as passed.
"""
import contextlib
import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
FILE = HERE.parent.parent / "nodejobs.py"
sys.path.insert(0, str(FILE.parent))
import nodejobs  # noqa: E402

PYTHON = os.path.realpath(sys.executable)
ATTACKS = {}
ACTIVE, ENDED = nodejobs.ACTIVE, nodejobs.ENDED


def attack(name):
    """Enter a generator in the register."""
    def register(function):
        ATTACKS[name] = function
        return function
    return register


class Missing(Exception):
    """This attack cannot be had here; the message says what is missing."""


class Room:
    """An empty directory, a size and a seed for one attack."""

    def __init__(self, path, full, seed):
        self.path, self.full, self.random = pathlib.Path(path), full, random.Random(seed)

    def pick(self, cases, quick):
        """Return all cases at full size; else so many of them, spread evenly."""
        cases = list(cases)
        if self.full or len(cases) <= quick:
            return cases
        return [cases[number * len(cases) // quick] for number in range(quick)]

    def size(self, full, quick):
        return full if self.full else quick


INSIDE = """
import json, sys, %s as module, harness
path, full, seed = json.loads(sys.argv[1])
try:
    for case in module.%s.inside(harness.Room(path, full, seed)):
        print(json.dumps(case), flush=True)
except harness.Missing as error:
    print(json.dumps([None, str(error)]), flush=True)
"""


def contained(function):
    """Run an attack in a pid namespace of its own: what it leaves dies with it, what it kills is its own."""
    @functools.wraps(function)
    def outside(room):
        code = INSIDE % (function.__module__, function.__name__)
        words = namespaces() + [PYTHON, "-c", code,
                                json.dumps([str(room.path), room.full, room.random.getrandbits(32)])]
        with subprocess.Popen(words, env=dict(os.environ, PYTHONPATH=str(HERE)), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE) as worker:
            try:
                for line in worker.stdout:
                    name, problems = json.loads(line.decode())
                    if name is None:
                        raise Missing(problems)
                    yield name, problems
            finally:
                worker.kill()
                # The first process of the namespace is then killed by the kernel, and takes the others with it.
                eventually(lambda: not processes_of(os.environ["TORTURE"], "TORTURE"))
        if worker.returncode:
            yield "the end", ["the attack broke off with exit code %d" % worker.returncode]
    outside.inside = function
    return outside


class TooLong(BaseException):
    """What was asked for took too long; a BaseException, which nothing on the way takes for its own."""


@contextlib.contextmanager
def within(seconds):
    """Raise TooLong in here after so many seconds: something hangs. Of the main thread only."""
    def late(*_):
        raise TooLong("it hangs for %d s" % seconds)
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def eventually(check, seconds=20.0):
    """Return check()'s first true value, or its last one at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(0.005)


def is_alive(pid):
    """Tell whether a process lives; a zombie does not."""
    try:
        state = pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def processes_of(store, variable="NODEJOBS_DB"):
    """Return the pids of all processes that a store's jobs have started, by their environment."""
    mark, found = os.fsencode("\0%s=%s\0" % (variable, store)), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in b"\0" + pathlib.Path("/proc", name, "environ").read_bytes() and is_alive(int(name)):
                found.append(int(name))
    return found


def monitors_of(job_id):
    """Return the pids of a job's monitors, and of what they have forked that is not the command yet."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = pathlib.Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if words[-3:-1] == [b"nodejobs-monitor", os.fsencode(job_id)] and is_alive(int(name)):
                found.append(int(name))
    return found


def end(pids):
    """Kill processes that the attack has started; wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in pids))


def cli(store, *words, **options):
    """Run the command line on a store; return the completed process, its output as text."""
    options.setdefault("timeout", 120)
    command = options.pop("before", []) + [PYTHON, str(FILE)] + [str(word) for word in words]
    return subprocess.run(command, env=dict(os.environ, NODEJOBS_DB=str(store), **options.pop("env", {})),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, errors="replace", **options)


def listed(store):
    """Return ({id: record}, problems) as `list --json` tells it."""
    done = cli(store, "list", "--json")
    if done.returncode or done.stderr and "no jobs in" not in done.stderr:
        return {}, ["`list --json` exits with %d: %s" % (done.returncode, done.stderr[-300:])]
    try:
        return {record["self_id"]: record for record in json.loads(done.stdout or "[]")}, []
    except ValueError as error:
        return {}, ["`list --json` prints no JSON (%s): %r" % (error, done.stdout[-300:])]


def untidy(done, codes):
    """Return what is wrong with how a command line ended: its exit code, or a traceback instead of one line."""
    problems = []
    if done.returncode not in codes:
        problems.append("exit code %d: %s" % (done.returncode, done.stderr[-300:]))
    if "Traceback" in done.stderr:
        problems.append("a traceback: " + done.stderr[-600:])
    return problems


def namespaces():
    """Return the words that run a command as root of process and mount namespaces of its own.

    All that it leaves dies with it. A shell is process 1 there, which waits for whatever is orphaned.
    """
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        done = subprocess.run(words + ["true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    except FileNotFoundError:
        raise Missing("unshare, of util-linux") from None
    if done.returncode:
        raise Missing("no pid namespaces here: %s" % done.stderr.strip())
    return words + ["sh", "-c", '"$@"; exit $?', "init"]


def inside(words, function, *arguments, timeout=120):
    """Call an attack's function in a process of its own that `words` start; return what it returns: problems.

    The arguments go by its stdin, so that they show in no command line.
    """
    script = ("import json, sys; sys.path.insert(0, %r); import %s as file\n"
              "problems = file.%s(*json.load(sys.stdin)); print(json.dumps(problems))"
              % (str(HERE), function.__module__, function.__name__))
    process = subprocess.Popen(words + [PYTHON, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, universal_newlines=True)
    try:
        output, errors = process.communicate(json.dumps(arguments), timeout=timeout)
        return json.loads(output)
    except subprocess.TimeoutExpired:
        return ["no end after %d s" % timeout]
    except ValueError:
        return ["it broke with %s: %s" % (process.returncode, errors[-1500:])]
    finally:
        process.kill()
        process.communicate()


def take_pid(pid, leader=False):
    """Start a stranger that gets this pid, in a pid namespace of the attack's own; return whether it did."""
    eventually(lambda: not os.path.exists("/proc/%d" % pid))
    pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    stranger = os.posix_spawn("/bin/sleep", ["sleep", "300"], {}, setsid=leader)
    if stranger != pid:
        end([stranger])
        os.waitpid(stranger, 0)
    return stranger == pid


def kill(pid, number=signal.SIGKILL):
    """Signal a process that the attack has started, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def state_of(pid):
    """Return the letter of a process' state, Z if it is gone."""
    try:
        return pathlib.Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def suspend(pid):
    """Stop a process by SIGSTOP; return when it stands still."""
    kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pid) in "TZ")


def wrong(record, **expected):
    """Return in which keys a record is not as expected; a tuple lists what is right."""
    record = {} if record is None else record
    return ["%s is %r, not %r" % (key, record.get(key), value) for key, value in expected.items()
            if (record.get(key) not in value if isinstance(value, tuple) else record.get(key) != value)]
