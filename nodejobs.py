#!/usr/bin/env python3
"""nodejobs: run, track, log and stop external commands, without a daemon.

One file, standard library only. Copy it anywhere.

Python:
    from nodejobs import Jobs
    jobs = Jobs()                                     # or Jobs(db_path="...")
    jobs.run(["rsync", "-a", "src/", "dst/"], "sync") # a list is executed as it is
    jobs.run("make && make install", "build")         # a string is a shell command line
    jobs.run("./train", "train", queue="gpu", slots=2)  # when its turn has come; two of them may run at once
    jobs.run("./deploy", "deploy", after_ok=["build"])  # when that has finished, else never
    jobs.get_status("sync").status                    # "queued", "running", "finished", "failed" ...
    jobs.wait("sync", timeout=60).exit_code           # 0; None while it runs or if nobody can know
    jobs.job_logs("sync")                             # (stdout, stderr)
    jobs.stop("sync")                                 # the whole process tree
    jobs.list_status({"status": "failed"})            # {id: record}; also globs: {"self_id": "sync-*"}
    jobs.history("sync"), jobs.remove("sync"), jobs.prune(older_than=30 * 86400)

Command line:
    python3 nodejobs.py run --id sync -- rsync -a src/ dst/
    python3 nodejobs.py run --id build -c 'make && make install'
    python3 nodejobs.py run --id backup --fresh 6h --timeout 1h --wait -- ./backup.sh
    python3 nodejobs.py run --id train --queue gpu:2 --after-ok sync -- ./train.sh
    python3 nodejobs.py queue list
    python3 nodejobs.py list --status failed
    python3 nodejobs.py status sync
    python3 nodejobs.py logs sync
    python3 nodejobs.py wait sync build
    python3 nodejobs.py stop sync
    python3 nodejobs.py history sync
    python3 nodejobs.py VERB --help

On other machines, as a live table, completed by the shell: on_hosts.py, top.py and more in examples/.

On disk:
    DB/                        $NODEJOBS_DB, or $XDG_STATE_HOME/nodejobs, or ~/.local/state/nodejobs; only its owner
                               writes there
                               (Windows: %LOCALAPPDATA%\\nodejobs)
      backup/                  one directory per job: the id, escaped where a file system needs it
        lock                   held by whoever starts or removes runs of this job
        000001/                one directory per run
          journal.jsonl        one JSON object per change of state; the record is all of them together
          stdout.log           exactly the bytes that the command wrote
          stderr.log
          stdout.NNN.log       with max_log: what came before, NNN bytes after the beginning
          lock                 held by the run's monitor until it has written the end
          COOKIE.launch        while it is queued: what it takes to start it, its environment too (mode 0600)
      .queue/                  what waits for its turn, or for other jobs
        lock                   held for a moment by whoever queues, moves or takes runs
        journal.jsonl          one line for each queue: how many slots it has, whether it is paused
        NUMBER-COOKIE.KIND.QUEUE   a run's place; KIND is dependent (on other jobs), waiting, taken or started
        starter                what monitors execute when they end, to start the next: all of this file, compiled

The protocol. Code that keeps a rule names it.
 1. Who starts or removes runs of a job holds the job's lock, and makes a run's directory by mkdir
    of the next number. The starting monitor inherits that lock: it is held until the outcome of the
    start is in the journal, even if the launcher is killed.
 2. A journal is only ever appended to, a line at a time. The first line with an end status ends the
    record; a line that does not parse is passed over. Nothing is rewritten.
 3. The monitor is the parent of the command. It holds a POSIX record lock on the run's `lock`, which
    is not inherited by any child, is dropped by the kernel when the monitor dies, and can be asked
    about with read permission only. Lock held: the job is running. No pid has to be trusted for that.
 4. The command's process waits until the line with its pid is in the journal; only then it executes.
    So nothing ever runs that the store does not know, and within a boot "no pid" proves that nothing ran
    (a power cut may take lines that were not synced). A launcher that gives up on its monitor says
    failed_start; of that line and the pid's, the first one counts.
 5. How a start went comes through a close-on-exec pipe from the exec itself: end of file is success,
    bytes say what failed.
 6. The end is two lines: the facts ("outcome", exit code ...), synced to the disk, then the status.
    Who reads an end status can rely on it after a power cut; if the second line is missing, the
    first one, once the lock is free, says the same; until then nobody shows it. The journal's last block
    has room for them from the start; where the disk refuses them all the same, the monitor frees the
    lock and tries on.
 7. A process is a pid plus its start time, and is signalled through a pidfd where there is one.
 8. Readers never write, and need no write permission.
 9. The monitor adopts what the command orphans. It outlives its command for as long as anything of
    that still runs, so that stop can find it; a job that was asked to stop ends when all of it has.
10. Only the owner of DB writes there, and only while nobody else may. Nothing is opened through a link. A directory is
    a job's only if it holds one of our runs, or nothing but our lock, which it has from its first moment on; whatever
    else is in DB is somebody's, and stays.
11. What is queued is files and no process: a journal that begins with "queued", a ticket whose number is its place, and
    beside the journal what it takes to start it, which is deleted when the pid is in the journal. Runs that were started
    and have not ended fill a queue's slots. Whoever starts one marks its ticket as taken under the queue's lock, lets go
    of that lock, and takes the job's: if the run is queued still, he starts it, and its monitor notes that with the
    pid. Until then it is queued, though he may be killed, or may lack something (room on the disk, descriptors,
    processes), as that says nothing about the job. Whoever has a job's lock may take the queue's, never the other way
    round. Every monitor that ends and every call that may write starts what is due.
12. A run is its id, number and cookie: whoever looks at it again compares all three.

On Windows a lock is held by whoever has its file open for writing (3); the command's process is made suspended,
and resumed when its pid is in the journal (4, 5); the tree of a run is a job object, which a monitor of another
run leaves (9); stop ends that object at once, since Windows has no signal to ask with.

Not promised: restarts, notifications, anything that runs when no job runs (after a reboot a queue waits for
somebody's next call); the exit code of a command whose monitor was killed (then the job is "lost" once the command
is gone), nor its output, if that has a cap; that stop finds a process which left its session *and* scrubbed its
environment *and* was orphaned, where the monitor was killed or could not adopt it (minimal Pythons, emulators); that
a session leader which gets the pid of a command of a killed monitor within the same clock tick is told from it before
Linux 6.9 and Python 3.9; on Windows, that stop finds what is left when both the monitor was killed and the command
has ended.
"""

import sys

# As a program we import the standard library only: not what lies beside this file, nor, if it is read from standard
# input, in the working directory. Such a directory comes first, unless Python was told to leave it out.
if (__name__ == "__main__" and __spec__ is None
        and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))):
    del sys.path[0]

import errno
import os
import time
import _signal as signal  # type: ignore[import-not-found]  # the built-in half of signal: no 3 ms of enums

TYPE_CHECKING = False  # as in typing, which is never imported: it would double the cost of importing us
if TYPE_CHECKING:
    from typing import (Any, Dict, Iterable, Iterator, List, Mapping, NoReturn, Optional, Sequence, Set,
                        Tuple, Type, Union)
    Command = Union[str, Sequence[Union[str, bytes, "os.PathLike[str]"]]]
    Members = Dict[int, int]  # pid -> start time
    Row = Tuple[int, int, int, int, bytes]  # a process' parent, group, session, start time, state
    Ended = Tuple[int, Optional[int], Optional[int]]  # how a process ended: its pid, exit code or None, signal or None
    Option = Tuple[str, str, Any, Any, str]

__version__ = "1.0.0"
__all__ = ["Jobs", "BaseData", "Field", "JobRecord", "JobFilter", "JobRecordDict", "JobEvent", "QueueRecord",
           "NodejobsError",
           "SchemaError", "StoreError", "UnknownJob", "JobRunning", "CannotStop"]


# ------ 1. words ------

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
FINISHED, FAILED, STOPPED, FAILED_START, LOST = "finished", "failed", "stopped", "failed_start", "lost"
ACTIVE = (QUEUED, STARTING, RUNNING, STOPPING)
ENDED = (FINISHED, FAILED, STOPPED, FAILED_START, LOST)
STATUSES = frozenset(ACTIVE + ENDED)

JOURNAL, STDOUT_LOG, STDERR_LOG, LOCK = "journal.jsonl", "stdout.log", "stderr.log", "lock"
NULL, SEP = os.devnull, os.sep
SIGPIPE = 13
SIGKILL = 9           # Windows has none, but what we end there so is told by this name
KILLED = 0x4E4A0009   # the exit code that it gets there
COOKIE_VARIABLE = b"NODEJOBS_COOKIE"
OUR_VARIABLES = (b"NODEJOBS_ID", b"NODEJOBS_RUN", b"NODEJOBS_DB", COOKIE_VARIABLE)  # in a command's environment
MONITOR_COOKIE = b"monitor"  # in a monitor's environment: it belongs to no run's tree, not even to an enclosing one's

KEEP = 10             # runs kept of each job
STARTSECS = 0.5       # seconds that run() watches for an early end
GRACE = 5.0           # seconds between asking a tree to end and killing it
KILL_SECONDS = 5.0    # seconds that a killed process may take to vanish before stop() says that it cannot
LOCK_SECONDS = 10.0   # seconds to wait for another launcher of the same job
RETRY_SECONDS = 86400.0  # seconds that a monitor tries to write an end for which the disk has no room
END_ROOM = 1024       # bytes of the journal's last block that are kept for the end
MOST_EXIT_CODE = 0xFFFFFFFF if os.name == "nt" else 255
LEAST_LOG = 1024      # the smallest max_log, in bytes
JOURNAL_BYTES = 1 << 24  # what is longer is no journal of ours: of a command line of 2 MiB, escaped, it has 12
JOURNAL_LINES = 10000  # a run writes a dozen; a full disk may tear a line at each of write_end's attempts
TOO_FEW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # the asker's own shortage says nothing about a job
SHORTAGES = TOO_FEW + (errno.EAGAIN, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS, errno.ENOLCK)
# Something else lies in a file's place: a directory, a link (FreeBSD says EMLINK, NetBSD EFTYPE) or a socket.
NOT_OURS = (errno.EISDIR, errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", 0), errno.ENXIO, errno.EOPNOTSUPP)
FORMAT = 2            # of a journal that begins with "queued"; 1 of the others. A reader that knows less says so
QUEUE, OLD_QUEUES = ".queue", ".queues"  # no job's directory begins with a dot; the second is of version 1.0
STARTER_FILE, LAUNCH = "starter", ".launch"
QUEUE_BYTES = 200     # of a queue's name, as the end of a ticket's
SLOTS, MOST_SLOTS = 1, (1 << 31) - 1  # jobs of a queue that may run at once
FOREVER = float("inf")
FOLLOW_SECONDS = 0.04  # between looks at a log that is followed
POLL_SECONDS = 0.004  # between looks, where the system has no event to wait for


class NodejobsError(Exception):
    """Anything that nodejobs itself could not do. The message says what, why and the way out."""


class SchemaError(NodejobsError, ValueError):
    """A record, filter or argument has an unknown key, lacks a required one or has a wrong type."""


class StoreError(NodejobsError):
    """The job directory cannot be made, read or written. `path` says where; `__cause__` is the OSError."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class UnknownJob(NodejobsError, ValueError):
    """There is no such job, or no such run of it, in this store."""

    def __init__(self, job_id: str, run: "Optional[int]", db_path: str) -> None:
        what = "job %r" % job_id if run is None else "run %d of job %r" % (run, job_id)
        super().__init__("there is no %s in %s; `%s` shows what there is"
                         % (what, db_path, "list" if run is None else "history"))
        self.job_id, self.run, self.db_path = job_id, run, db_path


class JobRunning(NodejobsError):
    """The job is active, so it cannot be started again or removed; or what an ended run of it left behind still runs,
    so it cannot be removed. `record` is its record."""

    def __init__(self, record: "JobRecord", refused: str) -> None:
        text = "is %s (run %s%s); wait for it, or stop it first" % (
            record.status, record.run, "" if record.status == QUEUED else ", pid %s" % record.last_pid)
        if record.ended:
            text = "is %s, but what its run %s left in the background still runs (pid %s); `stop %s` ends it" % (
                record.status, record.run, ", ".join([str(pid) for pid, _ in record.left_behind or ()]), record.self_id)
        super().__init__("%s: job %r %s" % (refused, record.self_id, text))
        self.record = record


class CannotStop(NodejobsError):
    """Something of the job could not be ended, or something holds it. `pids` say what; `record` is the job's record."""

    def __init__(self, record: "JobRecord", pids: "List[int]", reason: str) -> None:
        super().__init__("cannot stop job %r: %s" % (record.self_id, reason))
        self.record, self.pids = record, pids


def check_seconds(name: str, value: "Any", least: float = 0.0) -> None:
    """Raise SchemaError unless `value` is None or a number of seconds from `least` to thirty years."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))
                              or not least <= value <= 1e9):
        raise SchemaError("%s must be a number of seconds from %g to 1e9, not %.40r" % (name, least, value))


def check_count(name: str, value: "Any", what: str, least: int, most: int = 1 << 62) -> None:
    """Raise SchemaError unless `value` is None or a whole number of something, from `least` to `most`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
        raise SchemaError("%s must be a number of %s, %d or more, not %.40r" % (name, what, least, value))


def printable(text: str) -> str:
    """Escape what could move the cursor, reorder the line or be no character at all."""
    return text if text.isprintable() else "".join(
        [char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def iso_time(seconds: float) -> str:
    """Write an epoch time as UTC, "2026-11-24T01:47:38.123Z"; such texts sort by time."""
    milliseconds = int(seconds * 1000)
    return "%s.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)), milliseconds % 1000)


def epoch_time(text: "Optional[str]") -> "Optional[float]":
    """Read what `iso_time` wrote; None for anything else."""
    try:
        year, month, day = [int(part) for part in (text or "")[:10].split("-")]
        hour, minute, second = [float(part) for part in (text or "")[11:-1].split(":")]
    except ValueError:
        return None

    # The days of the Gregorian calendar, counting years from March; datetime would cost a call 1 ms to import.
    year -= month < 3
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    return seconds if seconds - seconds == 0 else None  # float() reads "nan" and "inf" too


def to_json(value: "Any") -> str:
    """Write None, a bool, number, text, list or dict as compact ASCII JSON.

    Ours because the monitor is too lean to import json.
    """
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value) if value - value == 0 else "null"  # JSON has no infinity and no NaN
    if isinstance(value, str):
        parts = ['"']
        for char in value:
            code = ord(char)
            if 32 <= code < 127 and char not in '"\\':
                parts.append(char)
            elif code < 0x10000:
                parts.append("\\u%04x" % code)
            else:
                parts.append("\\u%04x\\u%04x" % (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF)))
        parts.append('"')
        return "".join(parts)
    if isinstance(value, dict):
        return "{%s}" % ",".join([to_json(str(key)) + ":" + to_json(value[key]) for key in value])
    if isinstance(value, (list, tuple)):
        return "[%s]" % ",".join([to_json(item) for item in value])
    raise TypeError("%s is not JSON: %r" % (type(value).__name__, value))


def short_int(text: str) -> int:
    """Read an integer of reasonable length: older Pythons take minutes for a million digits."""
    if len(text) > 40:
        raise ValueError("a number of %d digits" % len(text))
    return int(text)


def no_constant(text: str) -> "NoReturn":
    """Refuse NaN and Infinity, which are no JSON; NaN is not even equal to itself."""
    raise ValueError("no JSON: %s" % text)


JSON_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
JSON_SCALAR = r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"
JSON_INNERMOST = r'\{(?:"":(?:""|0)(?:,"":(?:""|0))*)?\}|\[(?:(?:""|0)(?:,(?:""|0))*)?\]'
DEEPEST_JSON = 60  # lists within lists that are read there; Python 3.8 reads some 90
JSON_ESCAPE = r"\\(u[dD][89abAB]..\\u[dD][c-fC-F]..|.)"  # a character beyond the first 65536 comes as two


def read_as_python(text: str) -> "Any":
    """Read one JSON text where there is no scanner in C (PyPy, Debian's python3-minimal); ValueError where it is none.

    What is JSON is nearly Python, and what is not is refused first: with "" for each string and 0 for each other
    scalar, the innermost lists and objects become 0, over and over, until one value is left.
    """
    import re
    rest = re.sub("[ \\t\\r\\n]", "", re.sub(JSON_SCALAR, "0", re.sub(JSON_STRING, '""', text)))
    for _ in range(DEEPEST_JSON):
        rest = re.sub(JSON_INNERMOST, "0", rest)
    if rest not in ('""', "0") or text.strip() != text or '"' in re.sub(JSON_STRING, "", text):
        raise ValueError("no JSON: %.60r" % text)

    def unescape(found: "Any") -> str:
        escape = found.group()
        if len(escape) > 2:
            halves = escape.encode("ascii").decode("unicode_escape")
            return str(halves.encode("utf-16", "surrogatepass").decode("utf-16"))
        return "/" if escape == "\\/" else str(escape)

    python = re.sub(JSON_STRING, lambda found: re.sub(JSON_ESCAPE, unescape, found.group()), text)
    return eval(python, {"true": True, "false": False, "null": None})


def json_reader() -> "Any":
    """Return a function that reads one JSON text, and raises ValueError where it is none.

    It is the scanner in C that json.loads uses, without the json package around it: that imports
    regular expressions for its half in Python, and so doubles the time of every command line.
    """
    try:
        from _json import make_scanner
        options: "Dict[str, Any]" = {
            "strict": True, "object_hook": None, "object_pairs_hook": None, "array_hook": None, "parse_float": float,
            "parse_int": int if hasattr(sys, "get_int_max_str_digits") else short_int, "parse_constant": no_constant,
            "memo": {}}
        context: "Any" = type("Context", (), options)
        scan = make_scanner(context)
    except (ImportError, AttributeError, TypeError, OSError):  # OSError: imports fail in a deleted directory
        return read_as_python

    def read(text: str) -> "Any":
        try:
            value, end = scan(text, 0)
        except (StopIteration, IndexError, RecursionError, SystemError):  # SystemError: it lacks the json package
            end = -1
        if end != len(text):
            raise ValueError("no JSON: %.60r" % text)
        return value
    return read


read_json = json_reader()


def signal_name(number: int) -> str:
    """Name a signal: 15 is "SIGTERM"."""
    for name in dir(signal):
        if name[:3] == "SIG" and name[3] != "_" and name not in ("SIGCLD", "SIGIOT", "SIGPOLL"):
            if getattr(signal, name) == number:
                return name
    return "SIGKILL" if number == SIGKILL else "SIG%d" % number


def signal_number(name: "Union[str, int]") -> int:
    """Read a signal: "TERM", "sigterm", "15" or 15.

    Raises SchemaError when this system has no such signal.
    """
    text = str(int(name) if type(name) is not bool and isinstance(name, int) else name).upper()
    if text.isdecimal() and len(text) < 9:
        number = int(text)
    else:
        text = text if text[:3] == "SIG" else "SIG" + text
        number = getattr(signal, text, SIGKILL if text == "SIGKILL" else 0)
    if "_" in text or not isinstance(number, int) or not 0 < number < signal.NSIG:
        raise SchemaError("there is no signal %r here; say for example TERM, INT, KILL or a number" % (name,))
    return int(number)


# ------ 2. records ------

PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789._-"
RESERVED = frozenset(["con", "prn", "aux", "nul"] + [port + digit for port in ("com", "lpt") for digit in "0123456789"])
NAME_BYTES = 255


def is_plain(name: str) -> bool:
    """Tell whether a job id is itself the name of its directory."""
    return (not name.strip(PLAIN) and name[0] not in ".-" and name[-1] != "."
            and name.partition(".")[0] not in RESERVED and len(name) <= NAME_BYTES)


def escape_id(job_id: str) -> str:
    """Turn a job id into its directory's name: two ids give two names on every file system.

    a-z 0-9 . _ - stand for themselves, a capital is "+" and its small letter (some file systems ignore
    case), and every other byte of the UTF-8 text is %xx; so are a leading "." or "-", a trailing "."
    (Windows drops it) and the first letter of a name that Windows reserves.
    Raises SchemaError for what cannot be an id.
    """
    if not isinstance(job_id, str) or not job_id:
        raise SchemaError("a job id must be a text of at least one character, not %r" % (job_id,))
    if is_plain(job_id):
        return job_id
    if "\0" in job_id:
        raise SchemaError("the job id %r holds a NUL character, which no environment variable can" % (job_id,))
    try:
        # surrogateescape: an id from the command line may hold bytes that are no UTF-8
        raw = job_id.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SchemaError("the job id %r holds a lone surrogate, which no file name can" % (job_id,)) from None
    if raw.decode("utf-8", "surrogateescape") != job_id:
        raise SchemaError("the job id %r holds escaped bytes that are plain UTF-8; say them as text" % (job_id,))
    names = []
    for code in raw:
        char = chr(code)
        names.append(char if char in PLAIN else "+" + char.lower() if "A" <= char <= "Z" else "%%%02x" % code)
    if raw[0] in b".-" or "".join(names).partition(".")[0] in RESERVED:
        names[0] = "%%%02x" % raw[0]
    if len(names) > 1 and names[-1] == ".":
        names[-1] = "%2e"
    name = "".join(names)
    if len(name) > NAME_BYTES:
        raise SchemaError("the job id is too long: %d bytes as a file name, %d at most: %.40r..."
                          % (len(name), NAME_BYTES, job_id))
    return name


def unescape_id(name: str) -> "Optional[str]":
    """Turn a directory's name back into the job id; None if we would not have made that name."""
    if is_plain(name):
        return name
    raw, rest = bytearray(), name
    try:
        while rest:
            size = {"+": 2, "%": 3}.get(rest[0], 1)
            part, rest = rest[:size], rest[size:]
            raw.append(int(part[1:], 16) if size == 3 else ord(part[-1:].upper() if size == 2 else part))
        job_id = raw.decode("utf-8", "surrogateescape")
        return job_id if escape_id(job_id) == name else None
    except (ValueError, TypeError):
        return None


def is_name(text: str) -> bool:
    """Tell whether there can be a job, a queue or a user of this name."""
    try:
        return bool(escape_id(text))
    except SchemaError:
        return False


class Field:
    """One key of a record: on the class it is the key, on an instance the value.

        class Ticket(JobRecord):
            ticket = Field(str, required=True)
            owner = Field(str, default="nobody")

        Ticket.ticket          # "ticket"
        Ticket(self_id="a", ticket="OPS-1").ticket     # "OPS-1"

    `kind` is a type or a tuple of types (float takes ints too; bool is no int). A field that is not
    required may be None, which means unknown. A default must be immutable: all instances share it.
    `fits` tells of a value of that type whether a journal of ours can hold it; what is `derived` is found out
    anew at each look, and never taken from a journal.
    """

    def __init__(self, kind: "Union[type, Tuple[type, ...]]" = object, required: bool = False, default: "Any" = None,
                 doc: str = "", fits: "Any" = None, derived: bool = False) -> None:
        if isinstance(default, (list, dict, set)):
            raise SchemaError("the default %r would be shared by every record; use None or an immutable value"
                              % (default,))
        kinds = kind if isinstance(kind, tuple) else (kind,)
        self.kinds: "Tuple[type, ...]" = kinds + (int,) if float in kinds else kinds
        self.required, self.default, self.doc, self.key = required, default, doc, ""
        self.fits, self.derived = fits, derived

    def __set_name__(self, owner: type, name: str) -> None:
        if hasattr(dict, name):
            raise SchemaError("%s: a field cannot be called %r, every dict has that attribute" % (owner.__name__, name))
        self.key = name

    def __get__(self, record: "Optional[BaseData]", owner: "Optional[type]" = None) -> "Any":
        return self.key if record is None else record.get(self.key, self.default)

    def __set__(self, record: "BaseData", value: "Any") -> None:
        record[self.key] = value

    def accepts(self, value: "Any") -> bool:
        if value is None:
            return not self.required
        if isinstance(value, bool):
            return bool in self.kinds or object in self.kinds
        return isinstance(value, self.kinds)

    def expected(self) -> str:
        return " or ".join([kind.__name__ for kind in self.kinds] + ([] if self.required else ["None"]))


class BaseData(dict):  # type: ignore[type-arg]
    """A dict with a schema: subclass it and declare its keys as `Field`s.

    `Record(values, trim=False, **more)` checks keys and types, and fills in what is missing with the
    defaults. An unknown key is an error, or is dropped with trim=True. Setting a key or an attribute
    later is checked as well. Raises SchemaError, which names the field.
    """

    fields: "Dict[str, Field]" = {}

    def __init_subclass__(cls, **options: "Any") -> None:
        super().__init_subclass__(**options)
        cls.fields = {}
        for base in reversed(cls.__mro__):
            cls.fields.update({name: field for name, field in vars(base).items() if isinstance(field, Field)})

    def __init__(self, values: "Union[Mapping[str, Any], Iterable[Tuple[str, Any]]]" = (), trim: bool = False,
                 **more: "Any") -> None:
        super().__init__(self.defaults())
        given = dict(values, **more)
        for key in given:
            if not trim or key in self.fields:
                self[key] = given[key]
        for key, field in self.fields.items():
            if field.required and self.get(key) is None:
                raise SchemaError("%s.%s is required" % (type(self).__name__, key))

    @classmethod
    def defaults(cls) -> "Dict[str, Any]":
        """Return a new dict of what an instance holds before anything is given."""
        return {key: field.default for key, field in cls.fields.items()}

    @classmethod
    def trusted(cls, values: "Any") -> "Any":
        """Make an instance of what is known to be right, unchecked: a record read back, a pickle."""
        record = cls.__new__(cls)
        dict.update(record, values)
        return record

    @classmethod
    def check(cls, key: str, value: "Any") -> None:
        """Raise SchemaError unless `key` may hold `value`."""
        field = cls.fields.get(key)
        if field is None:
            raise SchemaError("%s has no field %r; it has %s (trim=True drops what is unknown)"
                              % (cls.__name__, key, ", ".join(cls.fields)))
        if not field.accepts(value):
            raise SchemaError("%s.%s must be %s, not %s %r"
                              % (cls.__name__, key, field.expected(), type(value).__name__, value))

    def __setitem__(self, key: str, value: "Any") -> None:
        self.check(key, value)
        super().__setitem__(key, value)

    def update(self, *values: "Any", **more: "Any") -> None:
        """As dict.update, with every key and type checked."""
        for key, value in dict(*values, **more).items():
            self[key] = value

    def __ior__(self, values: "Any") -> "Any":  # type: ignore[misc]
        self.update(values)
        return self

    def setdefault(self, key: str, value: "Any" = None) -> "Any":
        """As dict.setdefault, with key and type checked."""
        if key not in self:
            self[key] = value
        return self[key]

    def __reduce__(self) -> "Any":
        return type(self).trusted, (dict(self),), vars(self)


# What a record's type does not say of a value that a journal may hold: what is otherwise is damage.

def between(least: float, most: float) -> "Any":
    return lambda number: least <= number <= most


is_pid = between(2, (1 << 31) - 1)  # a signal to pid 0 or 1 is one to a group, or to the system
is_amount = between(0, 1e20)


def is_cookie(text: str) -> bool:
    return len(text) == 32 and not text.strip("0123456789abcdef")


def are_words(command: "Union[str, List[Any]]") -> bool:
    """Tell whether this is a shell line, or words, of which the first is not empty."""
    try:
        return isinstance(command, str) or bool("".join(command))
    except TypeError:
        return False


def are_runs(value: "List[Any]") -> bool:
    """Tell whether these are [id, run, cookie] of runs, of one at least."""
    return value != [] and all(
        isinstance(entry, list) and len(entry) == 3 and is_name(entry[0]) and type(entry[1]) is int
        and 0 < entry[1] < 1 << 31 and isinstance(entry[2], (str, type(None))) for entry in value)


def are_processes(value: "List[Any]") -> bool:
    """Tell whether these are [pid, start time] of processes."""
    return all(isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int and is_pid(entry[0])
               and type(entry[1]) in (int, type(None)) for entry in value)


def is_shallow(value: "Any", depth: int = 50) -> bool:
    """Tell whether what a later version, or nobody, has noted can be written as JSON again, which recurs."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(is_shallow(part, depth - 1) for part in inner)


class JobRecord(BaseData):
    """What is known of one run of a job. Times are UTC, ISO 8601; unknown is None.

    Subclass it to add fields; give the class to `Jobs` as `record_class`.
    """

    class Status:
        """The values of `status`."""
        c_queued = QUEUED              # it waits for its turn, or for others to end; it has no process
        c_starting = STARTING          # its launcher is starting it
        c_running = RUNNING            # the command runs
        c_stopping = STOPPING          # it was asked to stop and something of it still runs
        c_finished = FINISHED          # exit code 0
        c_failed = FAILED              # another exit code, a signal or a timeout; `error` says which
        c_stopped = STOPPED            # all of it ended after it was asked to stop
        c_failed_start = FAILED_START  # the command never ran; `error` says why
        c_lost = LOST                  # it is gone, and its monitor was killed first: nobody can know

    self_id = Field(str, required=True, doc="the job's id")
    run = Field(int, doc="number of this run of the job: 1, 2, 3 ...")
    status = Field(str, fits=STATUSES.__contains__,
                   doc="one of JobRecord.Status; None where the journal may not be read")
    command = Field((str, list), fits=are_words, doc="as it was given: a list, or a shell command line")
    exit_code = Field(int, fits=between(0, MOST_EXIT_CODE),
                      doc="what the command returned; None if a signal killed it, or it runs, or is lost")
    signal = Field(str, doc='name of the signal that killed it, such as "SIGKILL"; else None')
    error = Field(str, doc="in words, what went wrong; None if nothing did")
    errno = Field(int, doc="error number of a start that failed")
    started_at = Field(str, doc="when the command was started")
    ended_at = Field(str, doc="when it ended")
    fresh = Field(bool, derived=True,
                  doc="in what `run` returns: whether nothing was started, since this run is fresh or active")
    duration = Field(float, fits=is_amount, doc="seconds from start to end, or until now, by a clock that nobody sets")
    cpu_seconds = Field(float, doc="processor time, user and system, of the command and of what has ended before it")
    max_rss_kb = Field(int, fits=is_amount,
                       doc="largest resident set of one process, in KiB (not below the monitor's, some 6000)")
    last_update = Field(str, doc="when the state last changed")
    last_pid = Field(int, fits=is_pid, doc="process id of the command itself")
    monitored = Field(bool, derived=True,
                      doc="while it is active: whether its monitor lives, which will know the exit code")
    monitor_pid = Field(int, fits=is_pid, doc="process id of the monitor")
    monitor_start = Field(int, doc="start time of monitor_pid, in clock ticks since boot")
    cwd = Field(str, doc="working directory of the command")
    host = Field(str, doc="name of the machine that ran it")
    user = Field(str, doc="name of the user who ran it")
    timeout = Field(float, fits=is_amount, doc="seconds that it may run")
    max_log = Field(int, fits=between(LEAST_LOG, float("inf")),
                    doc="bytes that its logs may take together; the oldest output is dropped for the newest")
    dropped_bytes = Field(int, doc="bytes of output that were dropped because of max_log")
    suspended = Field(bool, derived=True,
                      doc="while it is active: whether a signal (SIGSTOP) has suspended the command")
    left_behind = Field(list, fits=are_processes,
                        doc="[pid, start time] of what its command left in the background and still runs")
    ended_pids = Field(list, derived=True,
                       doc="in what `stop` returns: pids of what ended runs had left behind, and it has ended")
    foreign = Field(list, derived=True,
                    doc="in what `remove` and `prune` return: paths that stay, since nodejobs did not make them")
    merge = Field(bool, default=False, doc="stderr goes into stdout.log")
    queue = Field(str, fits=is_name, doc="the queue that it was put into")
    queued_at = Field(str, doc="when")
    position = Field(int, derived=True, doc="while it is queued: its place in that queue; 1 is the next")
    after = Field(list, fits=are_runs, doc="[id, run, cookie] of each run that must have ended before it may start")
    after_ok = Field(list, fits=are_runs,
                     doc="the same of those that must have finished; otherwise it is never started")
    due_since = Field(str, doc="when it might have started, had there been room in its queue")
    waits_for = Field(list, derived=True, doc="while it is queued: the ids of those that have not ended yet")
    stop_signal = Field(str, doc="name of the signal with which it was asked to stop")
    stopped_by = Field(str, doc="user and process that asked it to stop")
    dirname = Field(str, doc="name of the job's directory in the store")
    logdir = Field(str, doc="path of this run's directory")
    logfile = Field(str, doc="the same as stdout_path")
    stdout_path = Field(str)
    stderr_path = Field(str)
    boot_id = Field(str, doc="the boot and the pid namespace in which the pids mean something")
    pid_mark = Field(int, doc="a number that only this process has in this boot (Linux 6.9 and newer)")
    pid_start = Field(int, doc="start time of last_pid, in clock ticks since boot")
    started_clock = Field(float, fits=is_amount, doc="started_at by the monotonic clock of that boot")
    cookie = Field(str, fits=is_cookie, doc="the NODEJOBS_COOKIE of this run's processes")
    outcome = Field(str, doc="the end status, written (and synced) just before it becomes the status")
    format = Field(int, doc="version of the journal's format")

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.status in ENDED


def glob_match(value: "Any", pattern: "Any") -> bool:
    """Tell whether a field's value is the pattern, or is text that the glob matches (case counts)."""
    if value == pattern:
        return True
    if not isinstance(value, str) or not isinstance(pattern, str) or not set("*?[") & set(pattern):
        return False
    import fnmatch
    return fnmatch.fnmatchcase(value, pattern)


class JobFilter(JobRecord):
    """Which records to pick: the keys of a record, each with one value, a list of values, or a glob.

        JobFilter(status=["failed", "lost"], self_id="backup-*")

    A record must match every key. `record_class` says which fields there are.
    """

    record_class: "Type[JobRecord]" = JobRecord

    def __init__(self, values: "Union[Mapping[str, Any], Iterable[Tuple[str, Any]]]" = (), trim: bool = False,
                 record_class: "Type[JobRecord]" = JobRecord, **more: "Any") -> None:
        dict.__init__(self)
        self.record_class = record_class
        for key, wanted in dict(values, **more).items():
            if not trim or key in record_class.fields:
                self[key] = wanted

    def __setitem__(self, key: str, wanted: "Any") -> None:
        several = isinstance(wanted, (list, tuple, set, frozenset)) and key != "command"
        choices = list(wanted) if several else [wanted]
        for choice in choices:
            if choice is None:
                continue  # what is unknown can be asked for
            self.record_class.check(key, choice)
            if key == "status" and not any(glob_match(status, choice) for status in ACTIVE + ENDED):
                raise SchemaError("no job can have the status %r; there are %s" % (choice, ", ".join(ACTIVE + ENDED)))
        dict.__setitem__(self, key, choices)

    def matches(self, record: "JobRecord") -> bool:
        """Tell whether the record has one of the wanted values under every key of the filter."""
        return all(any(glob_match(record.get(key), choice) for choice in choices)
                   for key, choices in self.items())


class JobEvent(BaseData):
    """What happened to a job that is followed: output, another status, or nothing for a while (see Jobs.bind)."""

    type = Field(str, required=True, doc='"stdout", "stderr", "status", "heartbeat"; "truncated" or "gone" where '
                                        "somebody has cut a log or taken it away")
    job_id = Field(str, required=True)
    text = Field(str, doc="new output, whole characters; bytes that are no UTF-8 are U+FFFD; of a log that was cut or "
                          "taken away, a sentence that begins with its name, as stdout.log")
    status = Field(str, doc="one of JobRecord.Status")
    seq = Field(int, doc="1, 2, 3 ..., also across reconnects")
    id = Field(str, doc="where to go on after this event: pass it as last_event_id")
    ts = Field(str, doc="when it was seen, UTC")


class JobRecordDict(dict):  # type: ignore[type-arg]
    """Job id -> JobRecord, sorted by id."""


class QueueRecord(BaseData):
    """How a queue stands."""

    queue = Field(str, required=True, doc="its name")
    slots = Field(int, required=True, doc="how many of its jobs may run at once")
    paused = Field(bool, required=True, doc="whether nothing is started from it")
    paused_by = Field(str, doc="user and process that paused it; None if it is not paused")
    error = Field(str, doc="in words, what is wrong with the journal of the queues; None if nothing is")
    running = Field(list, doc="ids of those of its jobs that run, in the order in which they were queued")
    waiting = Field(list, doc="ids of those that wait, the next one first")


# ------ 3. platform ------

class Run:
    """The processes of a run, as far as its journal names them: its command and its monitor (rule 7)."""

    def __init__(self, state: "Dict[str, Any]") -> None:
        self.pid: int = state.get("last_pid") or 0
        self.start: int = state.get("pid_start") or 0
        self.mark: int = state.get("pid_mark") or 0
        self.reaped = state.get("status") in ENDED and state["status"] != LOST  # so its pid is free for a stranger
        self.cookie = str(state.get("cookie")).encode()
        self.monitor: int = state.get("monitor_pid") or 0
        self.monitor_start: int = state.get("monitor_start") or 0


def hint_for(program: bytes, mode: int, number: int) -> bytes:
    """Say what keeps a file from being executed, where the error number alone would mislead."""
    # The errno module is one more that the monitor does not load.
    if mode & 0o170000 == 0o040000:
        return b" (it is a directory)"
    if number == 8:  # ENOEXEC
        return b" (a script needs a first line such as #!/bin/sh)"
    if not mode or number not in (2, 13):
        return b""
    if not os.access(program, os.X_OK):
        return b" (%s is there, but it is not executable: see chmod +x)" % program
    return b" (the file is there; the interpreter that it names is not, or may not be executed)"


class Posix:
    """What the rooms below need of an operating system: the contract, and what POSIX gives.

    Which processes there are is left to the system's own class; another system is one more class, as Windows is.
    A process is a pid plus a start time (rule 7), here a dict {pid: start}. Times given to a method as `deadline` are
    of time.monotonic(). Methods that a monitor uses are sent to it (room 5), where `os` is the bare `posix` module: they
    use nothing else of `os`, nor super().
    """

    monitor_os = "posix"      # the module that is a monitor's `os`
    python_name = "python3"   # as a user calls it
    store_mode = 0o700        # of a store that we make

    def interpreter(self) -> str:
        """Return the path of the Python that runs us; "" if it is not known."""
        return sys.executable or ""

    def variable(self, name: str) -> str:
        """Return the name of an environment variable as `environment` has it."""
        return name

    def prepare_output(self) -> None:
        """See that our command line's output can be any text, where the system does not do so by itself."""

    def boot_id(self) -> str:
        """Return a text that is equal only where the same pid means the same process."""
        raise NotImplementedError

    def start_time(self, pid: int) -> "Optional[int]":
        """Return when a process started, in a unit of the system's; None if it is gone or a zombie."""
        raise NotImplementedError

    def cookie_of(self, pid: int) -> "Optional[bytes]":
        """Return a process' NODEJOBS_COOKIE, b"" if it has none, None if that cannot be read."""
        return None

    def mark(self, pid: int) -> int:
        """Return a number that no other process of this boot ever has, or 0 where the system has none.

        In a Run it may be -1: then the command is known to be gone.
        """
        return 0

    def is_command(self, run: "Run") -> bool:
        """Tell whether the command of that run lives."""
        raise NotImplementedError

    def is_suspended(self, pid: int) -> "Optional[bool]":
        """Tell whether a signal has stopped that process; None if that cannot be known."""
        return None

    def remaining(self, run: "Run", known: "Members") -> "Members":
        """Return what still runs of a run that has ended: of what is `known`, and of what its monitor has adopted."""
        raise NotImplementedError

    def end_trees(self, runs: "Sequence[Tuple[Run, Members]]", number: int, grace: float) -> "List[List[int]]":
        """Ask the processes of runs to end, kill them after `grace` seconds; return each one's pids that outlived it.

        With each run comes what is known of it; what else is found is added to that.
        """
        raise NotImplementedError

    def tracer(self, pid: int) -> int:
        """Return the pid of the debugger that holds that process; 0 if none does, or nobody can know."""
        return 0

    def children(self, parent: int) -> "List[int]":
        """Return the children of a process, at once and cheaply; [] where the system cannot tell them so."""
        return []

    def host(self) -> str:
        """Return the name of this machine."""
        return os.uname().nodename

    def user(self) -> str:
        """Return the name of our user."""
        return self.name_of(os.getuid())

    def state_home(self) -> str:
        """Return the directory where a user's programs keep what they have to remember; "" if there is none."""
        home = os.path.expanduser("~")
        return os.path.join(home, ".local", "state") if os.path.isabs(home) else ""

    def environment(self) -> "Dict[bytes, bytes]":
        """Return our environment variables."""
        return dict(os.environb)

    def creation_mask(self) -> "Optional[int]":
        """Return our file mode creation mask; None where the system has none."""
        mask = os.umask(0o077)  # there is no call that only asks; for this moment, what others make is private
        os.umask(mask)
        return mask

    def quote(self, word: str) -> str:
        """Write a word as a command line has to have it."""
        plain = frozenset("%+,-./:=@_")
        return (word if word and all(char.isalnum() or char in plain for char in word)
                else "'" + word.replace("'", "'\"'\"'") + "'")

    def execution(self, argv: "List[bytes]", line: "Optional[bytes]", path: bytes,
                  cwd: "Optional[str]") -> "Dict[str, Any]":
        """Return what hold_command needs to execute `argv`, or the shell `line`: its "argv", "programs" and more.

        `path` is the PATH where the program is sought, `cwd` the directory in which it will start, if not ours.
        """
        if line is not None:
            argv = [b"/bin/sh", b"-c", b"--", line]
        programs = argv[:1] if b"/" in argv[0] else [(part or b".") + b"/" + argv[0] for part in path.split(b":")]
        return {"argv": argv, "programs": programs}

    def open(self, path: "Any", flags: int, mode: int = 0o644) -> int:
        """Open a file as os.open does, but through no link in its own place: a reader may look at anybody's store.

        No child inherits the descriptor, a FIFO does not block, and with O_APPEND every write goes to the end.
        """
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | (0 if flags & os.O_CREAT else os.O_NONBLOCK)
        return os.open(path, flags, mode)

    def move(self, path: str, to: str) -> None:
        """Rename a directory, of which we may have the lock, or put a file in another's place; OSError if it cannot."""
        os.rename(path, to)

    def distrust(self, path: str) -> "Tuple[str, str]":
        """Return why we must not write to a directory, and how its owner can be had to; ("", "") if we may."""
        found = os.stat(path)
        owner = self.name_of(found.st_uid)
        if found.st_uid != os.geteuid():
            return "it belongs to " + owner, "sudo -u " + ("'#%s'" % owner if owner.isdigit() else owner)
        others = found.st_mode & 0o022
        if others == 0o020 and self.name_of(found.st_gid, is_group=True) == owner:
            others = 0  # a group of the same name is the user's own (Debian, Fedora)
        return ("others may write to it (mode %o)" % (found.st_mode & 0o7777), "chmod go-w") if others else ("", "")

    def is_own_home(self, path: str) -> bool:
        """Tell whether a directory, or where it is not there yet the one that it would be made in, is our user's."""
        places = [os.path.realpath(path)]
        while not os.path.exists(places[0]):
            places[0] = os.path.dirname(places[0])
        home = os.path.realpath(os.path.expanduser("~"))
        if os.path.realpath(path).startswith(home + SEP) and os.path.exists(home):
            places.append(home)
        return all(os.stat(place).st_uid == os.geteuid() for place in places)

    def take_lock(self, path: str, seconds: float) -> int:
        """Open and take the job's lock, which a monitor may inherit; -1 if others hold it for that long."""
        # flock(2) belongs to the open file, so two threads exclude each other and the monitor can
        # inherit it. It has no timed form; a start takes milliseconds, so there is nothing to tune.
        deadline = time.monotonic() + seconds
        fd = self.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # whoever may open it for reading can hold it for ever
        taken = False
        try:
            taken = self.flock(fd, shared=False)
            while not taken and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                taken = self.flock(fd, shared=False)
        finally:
            if not taken:
                os.close(fd)
        return fd if taken else -1

    def flock(self, fd: int, shared: bool) -> bool:
        """Take the job's lock; False if others hold it."""
        import fcntl
        try:
            fcntl.flock(fd, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
            return True
        except BlockingIOError:
            return False

    def drop_lock(self, fd: int) -> None:
        """Drop the job's lock, also for those who inherited it."""
        # An explicit unlock frees it for every copy: a process that the host program forked at this
        # very moment holds one, and would keep the lock if we only closed ours.
        import fcntl
        fcntl.flock(fd, fcntl.LOCK_UN)

    def is_job_locked(self, path: str) -> bool:
        """Tell whether somebody holds the job's lock."""
        try:
            fd = self.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not self.flock(fd, shared=True)
        finally:
            self.drop_lock(fd)
            os.close(fd)

    def is_monitored(self, path: str) -> bool:
        """Tell whether a monitor holds the run's lock."""
        try:
            fd = self.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            os.lockf(fd, os.F_TEST, 0)  # asks only: it takes nothing, and a read-only descriptor will do
            return False
        except (PermissionError, BlockingIOError):  # POSIX allows EACCES and EAGAIN for "held by another"
            return True
        finally:
            os.close(fd)

    def watch_process(self, pid: int) -> "Optional[int]":
        """Open a descriptor that can be read when that process has ended; None if there is no such thing here."""
        return None

    def await_gone(self, pid: int, lives: "Any", deadline: float, pause: float = 0.0) -> bool:
        """Wait until a process no longer `lives`; False if it still does at the deadline.

        With a `pause`, look again that often: it may have let go of what is asked for before it ends.
        """
        watch = self.watch_process(pid)  # before we look whether it is the one, as a pid may change hands
        watched = [] if watch is None else [watch]
        pause = pause or (86400.0 if watched else POLL_SECONDS)
        try:
            while lives():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if self.ready(watched, [], min(pause, left + 0.001)):
                    return True
                pause *= 1.1 if pause < 0.1 else 1.0
            return True
        finally:
            for fd in watched:
                os.close(fd)

    def await_end(self, pid: int, start: int, deadline: float) -> bool:
        """Wait until the process is gone; False if it still lives at the deadline."""
        return self.await_gone(pid, lambda: self.start_time(pid) == start, deadline)

    def await_command(self, run: "Run", deadline: float) -> None:
        """Wait until the command of that run is gone, or the deadline."""
        self.await_gone(run.pid, lambda: self.is_command(run), deadline)

    def await_monitor(self, path: str, run: "Optional[Run]", deadline: float) -> None:
        """Wait until the run's lock is free, or the deadline; `run` only if its pids mean something here.

        It may return earlier, and does after a second: the lock at that path may be another run's by then.
        """
        if run is not None:
            # First the end of the command. Its monitor writes it down, and may then stay for what was left behind.
            self.await_command(run, deadline)
        deadline = min(deadline, time.monotonic() + 1.0)
        self.await_gone(run.monitor if run else 0, lambda: self.is_monitored(path), deadline, POLL_SECONDS)

    def start_monitor(self, argv: "List[bytes]", environment: "Dict[bytes, bytes]", payload: bytes,
                      job_lock: int, run_lock: str) -> bytes:
        """Start a monitor, hand it the payload and the job's lock; return what it reports, b"" if it died.

        The monitor finds the payload at descriptor 0, reports on 1, and has the lock as 2.
        """
        fds: "List[int]" = []
        pid = None
        try:
            fds += os.pipe()
            fds += os.pipe()
            payload_end, feed, report, report_end = fds
            self.ready([report], [feed], 0.0)  # what could fail must fail now, not when the monitor is there
            pid = self.spawn(argv, environment, [payload_end, report_end, job_lock])
            os.close(fds.pop())
            os.set_blocking(feed, False)
            while True:
                # A monitor that reports before it has read all has failed. Its death shows as end of file, unless
                # another thread forked the host while we had the writing end open: then that child holds it open too.
                # So now and then look whether there is a monitor.
                ready = self.ready([report], [feed] if payload else [], 3.0)
                if report in ready:
                    return os.read(report, 65536)
                if ready:
                    payload = payload[os.write(feed, payload):]  # a pipe holds 64 KiB; most payloads are less
                elif self.start_time(pid) is None and not self.is_monitored(run_lock):
                    return b""
        finally:
            # Our copy of the pipe's reading end was kept so that writing could not raise SIGPIPE, which
            # would kill a host that has set it back to its default.
            for fd in fds:
                os.close(fd)
            if pid is not None:
                self.reap(pid, True)  # it has forked the monitor proper and is gone: no zombie stays with the host

    def reap(self, pid: int, wait: bool) -> bool:
        """See that no zombie of a child process stays; False if it still runs, and we shall not wait."""
        try:
            return os.waitpid(pid, 0 if wait else os.WNOHANG)[0] == pid
        except ChildProcessError:
            return True  # the host has waited for it, or it is not our child

    def spawn(self, argv: "List[bytes]", environment: "Dict[bytes, bytes]", files: "List[int]") -> int:
        """Start a program with `files` as its descriptors 0, 1 and 2; return its pid."""
        if not hasattr(os, "posix_spawn"):  # Python 3.6 and 3.7, PyPy
            import subprocess
            process = subprocess.Popen(argv, env=environment, stdin=files[0], stdout=files[1], stderr=files[2])
            process.returncode = 0  # we wait for it by its pid; without this, Popen would warn that it still runs
            return process.pid
        # posix_spawn has no fork: nothing of the host is copied, and its threads do no harm. A descriptor
        # may be a target itself (of a host without stdin), so all are first moved out of the way.
        import fcntl
        moved: "List[int]" = []
        try:
            for fd in files:
                moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
            actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(moved)]
            return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigmask=())
        finally:
            for fd in moved:
                os.close(fd)

    def set_signals(self, action: "Any") -> None:
        """Have all signals ignored, or at their default."""
        for number in range(1, signal.NSIG):
            try:
                signal.signal(number, action)
            except (OSError, ValueError):
                pass  # KILL, STOP and the C library's own

    def ready(self, reading: "List[int]", writing: "List[int]", seconds: float) -> "List[int]":
        """Wait so long for descriptors that can be read or written, or are at their end; return those."""
        import select
        if not hasattr(select, "poll"):  # eventlet.monkey_patch() takes it away
            try:
                found = select.select(reading, writing, [], seconds)
            except ValueError:
                raise OSError(24, "without poll(2), no descriptor from 1024 on can be waited for") from None  # EMFILE
            return found[0] + found[1]
        poll = select.poll()
        for fd in reading:
            poll.register(fd, select.POLLIN)
        for fd in writing:
            poll.register(fd, select.POLLOUT)
        return [fd for fd, _ in poll.poll(seconds * 1000)]

    def begin_monitor(self) -> None:
        """Part from the launcher: be a process that nobody has to wait for, and that nothing but SIGKILL ends."""
        if os.fork():
            os._exit(0)  # so that the host program keeps no child, hence no zombie
        os.setsid()
        # When a machine shuts down, it lives to record how its command died.
        self.set_signals(signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # What the host program left inheritable: the command must not hold the host's files open.
        try:
            last = max([int(name) for name in os.listdir("/proc/self/fd")])
        except OSError:
            last = max(256, min(os.sysconf("SC_OPEN_MAX"), 65536))
        os.closerange(3, last + 1)
        # The end of a child writes a byte to this pipe, at any moment: so it can be waited for together with others.
        self.wakeup, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waking)

    def take_run_lock(self, path: bytes) -> int:
        """Take the run's lock (rule 3)."""
        lock = self.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.lockf(lock, os.F_LOCK, 0)
        return lock

    def block_size(self, fd: int) -> int:
        """Return the size of the blocks that a file's disk gives out."""
        return os.fstatvfs(fd).f_frsize

    def sync_directories(self, path: bytes) -> None:
        """Make it last that a new file is in a run's directory, where the system can do that."""
        for up in (b"", b"/..", b"/../.."):
            try:
                fd = os.open(path + up, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.fsync(fd)
                if os.uname().sysname == "Darwin":  # there fsync(2) leaves it in the disk's own cache
                    import fcntl
                    fcntl.fcntl(fd, 51)  # F_FULLFSYNC
            except OSError:
                pass  # the file system cannot, or may not; there is nothing safer to do
            finally:
                os.close(fd)

    def adopt_orphans(self, cookie: bytes) -> None:
        """From now on hold together what the command starts, also what its own parent leaves, where the system can."""
        pass

    def hold_command(self, order: "Dict[str, Any]", stdout: int, stderr: int) -> "Tuple[Any, str]":
        """Make the process of the command, which waits for a permit (rule 4).

        Return its pid and what else we need for it; and "", or why it is known already that it cannot be executed,
        as `permit` says it.
        """
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        go, permit = os.pipe()
        failure, failed = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(permit)  # or the monitor's death would not show as end of file
            self.become_command(order, (stdin, stdout, stderr), go, failed)
        for fd in (stdin, go, failed):
            os.close(fd)
        return (pid, permit, failure), ""

    def become_command(self, order: "Dict[str, Any]", files: "Tuple[int, ...]", go: int, failed: int) -> "NoReturn":
        """Turn the forked child into the command; on failure say the error number and words on `failed`."""
        what, number, hint = b"prepare the command", 0, b""
        try:
            try:
                os.setsid()
                for target, fd in enumerate(files):
                    os.dup2(fd, target)
                if os.read(go, 1) != b"!":
                    os._exit(127)
                self.set_signals(signal.SIG_DFL)
                if order["cwd"] is not None:
                    what = b"change to the working directory " + order["cwd"]
                    os.chdir(order["cwd"])
                what = b"execute " + order["argv"][0]
                number, hint = self.execute(order)
            except OSError as error:
                number = error.errno or 0
            os.write(failed, b"%d cannot %s: %s%s" % (number, what, os.strerror(number).encode(), hint))
        finally:
            os._exit(127)

    def execute(self, order: "Dict[str, Any]") -> "Tuple[int, bytes]":
        """Execute the first program that can be; where none can, return the error number and a hint.

        As a shell and execvp do: a directory on PATH is no program, nor is what cannot be seen there, and the search
        goes on past what may not be executed.
        """
        environment: "Dict[Any, Any]" = {b"PYTHONUNBUFFERED": b"1", **os.environ, **order["environment"]}
        environment = {key: value for key, value in environment.items() if value is not None}
        number, hint = 2, b" (it is nowhere on PATH)"  # ENOENT
        sought = b"/" not in order["argv"][0]
        found = False
        for program in order["programs"]:
            try:
                os.execve(program, order["argv"], environment)
            except OSError as error:
                failure = error.errno or 0
            try:
                mode = os.stat(program).st_mode
            except OSError:
                mode = 0
            if sought and mode & 0o170000 in (0, 0o040000) and failure in (2, 13, 20):  # ENOENT, EACCES, ENOTDIR
                continue

            if not found:
                found, number, hint = True, failure, hint_for(program, mode, failure)
            if mode and failure != 13:
                break
        return number, hint

    def permit(self, held: "Any") -> str:
        """Let the command execute; return "", or the error number, a blank and what failed (rule 5)."""
        pid, permit, failure = held
        os.write(permit, b"!")
        os.close(permit)
        failing = os.read(failure, 4096).decode("utf-8", "surrogateescape")
        os.close(failure)
        if failing:
            os.waitpid(pid, 0)
        return failing

    def forbid(self, held: "Tuple[Any, ...]") -> None:
        """End the command's process, which has not executed anything."""
        os.close(held[1])
        os.waitpid(held[0], 0)

    def await_child(self, held: "Any", pipes: "List[int]", deadline: float) -> "Tuple[Optional[Ended], List[int]]":
        """Wait for the end of a child of ours, for output in a pipe, or for the deadline.

        Return how the child ended, or None; and the pipes from which os.read returns at once, as there is output or the
        end. `held` is what hold_command has returned until the command has ended, then None: the children are then
        those that it has left to us. It may return early.
        """
        forever = not pipes and deadline == float("inf")
        ended: "Optional[Ended]" = None
        try:
            pid, status = os.waitpid(-1, 0 if forever else os.WNOHANG)
            if pid:
                ended = (pid, os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                         os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)
        except ChildProcessError:
            pass  # it has left nothing
        if forever:
            return ended, []

        ready: "List[int]" = []
        seconds = 0.0 if ended else min(max(deadline - time.monotonic(), 0.0), 86400.0)
        try:
            ready = self.ready([self.wakeup, *pipes], [], seconds)
        except (ImportError, OSError):
            time.sleep(POLL_SECONDS)  # that cannot be had at this moment: we look again
        if self.wakeup in ready:
            os.read(self.wakeup, 65536)
        return ended, [fd for fd in pipes if fd in ready]

    def usage(self) -> "Tuple[float, Optional[int]]":
        """Return the seconds of CPU of all that has ended of a run, and the KiB of the largest process, if known."""
        try:
            from resource import RUSAGE_CHILDREN, getrusage
        except (ImportError, OSError):  # a minimal Python; or nothing can be opened at this moment
            times = os.times()
            return times[2] + times[3], None
        used = getrusage(RUSAGE_CHILDREN)
        unit = 1024 if os.uname().sysname == "Darwin" else 1  # getrusage(2) gives bytes there
        return used.ru_utime + used.ru_stime, used.ru_maxrss // unit

    def adopted(self) -> "List[int]":
        """Return what the command has started and left to us, and its children."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        return self.children(os.getpid())

    def start_apart(self, argv: "List[bytes]", stdin: int) -> None:
        """Start a Python, `python -I -S -c LINE WORD...`, that reads from that file, and for which nobody waits."""
        if not os.fork():
            try:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                for target, fd in enumerate((stdin, null, null)):
                    os.dup2(fd, target)
                if argv[0] == sys.executable.encode("utf-8", "surrogateescape"):
                    # We are such a Python ourselves, and there already; unless that program has been upgraded since.
                    sys.argv = ["-c", *argv[5:]]  # type: ignore[list-item]  # bytes: nobody knows their encoding here
                    try:
                        exec(argv[4], {"__name__": "__main__"})
                        os._exit(0)
                    except SystemExit:
                        pass
                os.execve(argv[0], argv, os.environ)
            finally:
                os._exit(127)

    def name_of(self, number: int, is_group: bool = False) -> str:
        """Return the name of a user, or of a group; the number where it has none."""
        try:
            if is_group:
                import grp
                return grp.getgrgid(number).gr_name
            import pwd
            return pwd.getpwuid(number).pw_name
        except (KeyError, ImportError, OSError):
            return str(number)


class ProcessTable(Posix):
    """How the processes of a run are found and ended, where the system shows which processes there are.

    What `row` and `processes` tell of one is (parent, group, session, start time, state), as ps(1) says it.
    """

    def row(self, pid: int) -> "Optional[Row]":
        """Return what the system tells of a process; None if it is gone or a zombie."""
        raise NotImplementedError

    def processes(self) -> "Mapping[int, Row]":
        """Return the rows of all processes that live."""
        raise NotImplementedError

    def start_time(self, pid: int) -> "Optional[int]":
        row = self.row(pid)
        return row[3] if row else None

    def is_suspended(self, pid: int) -> "Optional[bool]":
        row = self.row(pid)
        return row[4] == b"T" if row else None

    def is_command(self, run: "Run") -> bool:
        # Within one clock tick a pid can come round to a stranger. A command carries the cookie; one that has
        # scrubbed its environment since still leads the group that was made for it (the leader of a session can join
        # no other). Before it has one, it is in its monitor's: that may have permitted it to execute and been killed.
        row = self.row(run.pid)
        if row is None or row[3] != run.start or run.reaped or run.mark and self.mark(run.pid) not in (run.mark, 0):
            return False
        cookie = self.cookie_of(run.pid)
        return cookie == run.cookie or cookie in (None, b"", MONITOR_COOKIE) and row[1] in (run.pid, run.monitor)

    def call_library(self, name: str, *words: int) -> None:
        """Call a function of the C library with these words, if that can be done here; else orphans go to init."""
        ffi: "Any"
        try:
            # The C half of ctypes costs 0.08 MB and half a millisecond, a tenth of the whole. Minimal Pythons lack it.
            import _ctypes as ffi
            if hasattr(ffi, "dlsym"):
                ffi.call_function(ffi.dlsym(ffi.dlopen(None, 0), name), words)
            else:  # PyPy
                import ctypes
                getattr(ctypes.CDLL(None), name)(*words)
        except Exception:
            pass

    def send(self, pid: int, start: int, number: int) -> None:
        """Signal a process, and no stranger; one that is gone, or not ours, hears nothing (rule 7)."""
        watch = self.watch_process(pid)
        send = getattr(signal, "pidfd_send_signal", None)
        try:
            if self.start_time(pid) != start:  # asked when the pidfd is open: that stays this process', as the pid may not
                return
            if watch is not None and send is not None:
                send(watch, number)
            else:
                os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            if watch is not None:
                os.close(watch)

    def send_all(self, members: "Members", number: int) -> None:
        for pid, start in members.items():
            self.send(pid, start, number)

    def send_group(self, run: "Run", number: int) -> bool:
        """Signal the command's process group (0 only asks); False if it has no member, or is not the run's.

        A zombie is a member, too. The kernel signals all at once, and a fork fails where a signal is pending: so
        nothing outruns that.
        """
        if run.pid == os.getpgrp() or self.start_time(run.pid) not in (None, run.start):
            return False
        try:
            os.killpg(run.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def tree(self, run: "Run", known: "Members", groups: "Set[int]") -> "Members":
        """Return the processes of a run; add to `groups` the numbers of process groups that are certainly the run's.

        They are: the command, what is in its session or group, what carries the run's cookie, what its
        monitor has adopted, what was `known` before, and all their descendants; less what carries
        another run's cookie (a job started by a job is not its child), and less ourselves.
        """
        # Parents come first, so that a shell that is asked before its child dies of the signal, and not of the child's
        # end. Whatever the run started is not older than its command.
        rows = sorted(self.processes().items(), key=lambda item: (item[1][3], item[0]))
        others = os.getpid(), run.monitor
        cookies = {pid: self.cookie_of(pid) for pid, row in rows if row[3] >= run.start and pid not in others}
        mine = [(pid, row) for pid, row in rows if pid in cookies and cookies[pid] in (None, b"", run.cookie)]

        family = {pid for pid, row in mine if known.get(pid) == row[3] or cookies[pid] == run.cookie}
        if self.is_command(run):
            family.add(run.pid)
        if self.start_time(run.monitor) == run.monitor_start:
            family.add(run.monitor)
        numbers: "Set[int]" = set()  # of the family's processes, groups and sessions
        before = -1
        while before != len(family):
            before = len(family)
            for pid, row in mine:
                # The number of a session stays taken for as long as it has a member. With the command itself, or
                # one process known to be ours in it, the session is the run's; otherwise it may be a later one.
                if row[0] in family or run.pid in numbers and run.pid in row[1:3]:
                    family.add(pid)
                if pid in family:
                    numbers.update((pid, *row[1:3]))

        groups |= numbers
        return {pid: row[3] for pid, row in mine if pid in family}

    def look(self, runs: "Sequence[Tuple[Run, Members]]", groups: "Set[int]") -> "Members":
        """Return the processes of these runs; note them in what is known of each.

        What forks and ends, over and over, can slip through a look, but not out of its process group: so look again
        where the kernel knows of more than we have seen. A few times only, as a zombie keeps the group, too.
        """
        members: "Members" = {}
        for run, known in runs:
            for _ in range(8):
                found = self.tree(run, known, groups)
                known.update(found)
                members.update(found)
                if found or not self.send_group(run, 0):
                    break
                time.sleep(POLL_SECONDS / 4)
        return members

    def remaining(self, run: "Run", known: "Members") -> "Members":
        found = {pid: start for pid, start in known.items() if start is not None and self.start_time(pid) == start}
        if self.start_time(run.monitor) == run.monitor_start:
            for pid in self.children(run.monitor):
                start = self.start_time(pid)
                if start is not None and self.cookie_of(pid) in (None, b"", run.cookie):  # no monitor of another run
                    found[pid] = start
        return found

    def end_trees(self, runs: "Sequence[Tuple[Run, Members]]", number: int, grace: float) -> "List[List[int]]":
        groups: "Set[int]" = set()
        asked: "Members" = {}
        deadline = time.monotonic() + grace
        members = self.look(runs, groups)
        while members:
            new = {pid: start for pid, start in members.items() if asked.get(pid) != start}
            asked.update(new)
            self.send_all(new, number)
            self.send_all(new, signal.SIGCONT)  # a suspended one hears nothing else
            for pid in members:
                self.await_end(pid, members[pid], deadline)
            if time.monotonic() >= deadline:
                break
            members = self.look(runs, groups)

        last = time.monotonic() + KILL_SECONDS
        while members and time.monotonic() < last:
            # Frozen first: what cannot run cannot fork, so a look that finds nothing new has found all.
            frozen: "Members" = {}
            while members != frozen and time.monotonic() < last:
                self.send_all(members, signal.SIGSTOP)
                frozen, members = members, self.look(runs, groups)

            self.send_all(members, signal.SIGKILL)
            self.kill_groups(runs, groups)
            for pid in members:
                self.await_end(pid, members[pid], min(last, time.monotonic() + 1.0))
            members = self.look(runs, groups)

        self.kill_groups(runs, groups)
        return [sorted(self.look([(run, known)], groups) if members else self.hunt(run)) for run, known in runs]

    def kill_groups(self, runs: "Sequence[Tuple[Run, Members]]", groups: "Set[int]") -> None:
        for run, _ in runs:
            if run.pid in groups:
                self.send_group(run, signal.SIGKILL)

    def hunt(self, run: "Run") -> "Members":
        """Kill what forks and ends so fast that no look has seen it; return what is left.

        In a chain of such processes, each in a session of its own, the oldest is always a child of the
        monitor, which has adopted it. There it is caught in the end, before it has forked.
        """
        last = time.monotonic() + KILL_SECONDS
        seen: "Optional[List[int]]" = None
        left: "Members" = {}
        while time.monotonic() < last:
            before, seen = seen, self.children(run.monitor)
            left = self.remaining(run, {})
            left.pop(os.getpid(), None)  # a job may stop itself
            if not left and seen == before:
                break  # of whatever has ended in between, a child would have come
            self.send_all(left, signal.SIGKILL)
            time.sleep(POLL_SECONDS / 100)
        return left


class Linux(ProcessTable):
    """/proc and pidfds."""

    known_boot_id = ""

    def boot_id(self) -> str:
        if not self.known_boot_id:
            with open("/proc/sys/kernel/random/boot_id") as file:
                self.known_boot_id = file.read().strip() + " " + os.readlink("/proc/self/ns/pid")
        return self.known_boot_id

    def read(self, path: str) -> "Optional[bytes]":
        """Return what a file of /proc holds; None if there is none, or it may not be read."""
        text = b""
        try:
            fd = os.open("/proc/" + path, os.O_RDONLY)
        except OSError:
            return None
        try:
            part = os.read(fd, 65536)
            while part:  # the kernel gives a page at a time
                text += part
                part = os.read(fd, 65536)
            return text
        except OSError:
            return None  # ESRCH: it ended between the open and the read
        finally:
            os.close(fd)

    def value(self, pid: "Union[int, str]", key: bytes) -> "Optional[bytes]":
        """Return the value of a key in /proc/PID/status, if it is there."""
        found = (self.read("%s/status" % pid) or b"").partition(b"\n" + key + b":\t")[2]
        return found.partition(b"\n")[0] or None

    def creation_mask(self) -> "Optional[int]":
        mask = self.value("self", b"Umask")  # since Linux 4.7
        return int(mask, 8) if mask else super().creation_mask()

    def row(self, pid: int) -> "Optional[Row]":
        # The same as /proc/PID/stat, but for ourselves in qemu's user mode, which makes that one up.
        text = self.read("%d/task/%d/stat" % (pid, pid)) or b""
        # The name, in parentheses, may hold blanks and parentheses: fields count from the last one. See proc(5).
        stat = text.rpartition(b")")[2].split()
        # A zombie with further threads is a live process whose first thread has ended.
        if not stat or stat[0] in b"ZXx" and int(stat[17]) < 2:
            return None
        return int(stat[1]), int(stat[2]), int(stat[3]), int(stat[19]), stat[0]

    def tracer(self, pid: int) -> int:
        return int(self.value(pid, b"TracerPid") or 0)

    def adopt_orphans(self, cookie: bytes) -> None:
        self.call_library("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, see prctl(2); emulators may lack it

    def children(self, parent: int) -> "List[int]":
        return [int(pid) for pid in (self.read("%d/task/%d/children" % (parent, parent)) or b"").split()]  # Linux 3.5

    def processes(self) -> "Mapping[int, Row]":
        rows = {int(name): self.row(int(name)) for name in os.listdir("/proc") if name.isdigit()}
        return {pid: row for pid, row in rows.items() if row}

    def cookie_of(self, pid: int) -> "Optional[bytes]":
        environ = self.read("%d/environ" % pid)
        if environ is None:
            return None
        return (b"\0" + environ).partition(b"\0" + COOKIE_VARIABLE + b"=")[2].partition(b"\0")[0]

    def mark(self, pid: int) -> int:
        # Since Linux 6.9 every process has an inode of its own in pidfs, and its number does not come again.
        # Before that, all pidfds share one: then this tells nothing, and harms nothing.
        fd = self.watch_process(pid)
        if fd is None:
            return 0
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def watch_process(self, pid: int) -> "Optional[int]":
        try:
            return os.pidfd_open(pid)
        except (AttributeError, OSError):
            return None  # kernel or Python (before 3.9, PyPy) has none, or the process is gone


class Ps(ProcessTable):
    """macOS and the BSDs, which have no /proc: a scan is one run of `ps`, a start time a second of the wall clock.

    See ps(1) of macOS, FreeBSD, NetBSD, OpenBSD, procps and busybox. Sessions come from getsid(2): where ps has a
    column for them, it may show pointers. An environment can be hidden (another user's; that of Apple's own
    programs): then session, group and descent decide. A ps that cannot show environments and start times, as
    busybox's, is of no use: nothing is started then.
    """

    known_boot_id = ""
    looked_at = -1.0  # when ps was run last; what it has shown is in `rows` and `cookies`

    def output(self, words: bytes) -> bytes:
        """Run a program of the system's; return what it prints, b"" if it fails or is not there."""
        fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        pid, text, status = 0, b"", 0
        try:
            fds += os.pipe()
            # PATH may be anybody's.
            pid = self.spawn([b"/usr/bin/env", *words.split()], {
                b"PATH": b"/bin:/usr/bin:/sbin:/usr/sbin", b"LC_ALL": b"C", b"TZ": b"UTC0"}, [fds[0], fds[2], fds[0]])
            os.close(fds.pop())
            part = os.read(fds[1], 65536)
            while part:
                text += part
                part = os.read(fds[1], 65536)
        finally:
            for fd in fds:
                os.close(fd)
            try:
                status = os.waitpid(pid, 0)[1] if pid else 0
            except ChildProcessError:
                pass  # a host that ignores SIGCHLD
        return b"" if status else text

    def boot_id(self) -> str:
        if not self.known_boot_id:
            # macOS; FreeBSD 13, as bytes; elsewhere the time of the boot, which moves when somebody sets the clock:
            # then what runs seems to be of another boot, and is left alone. The birth of /dev is as good as that.
            found = b""
            for words in (b"sysctl -n kern.bootsessionuuid", b"sysctl -bn kern.boot_id", b"sysctl -n kern.boottime"):
                found = found or self.output(words).strip()
            found = found or b"%d" % os.stat("/dev/null").st_ctime_ns
            self.known_boot_id = os.uname().nodename + " " + found.decode("ascii", "backslashreplace")
        return self.known_boot_id

    def parse(self, line: bytes) -> "Optional[Tuple[int, Row, Optional[bytes]]]":
        """Return the pid, row and cookie of a process that ps shows in this line; None for a zombie."""
        words = line.split(None, 9)  # 501 1 501 Ss Tue Nov 24 21:28:03 2026 sleep 60 HOME=/root ...
        if len(words) < 10 or words[3][:1] in b"ZXx":
            return None
        pid, parent, group = [int(word) for word in words[:3]]
        try:
            session = os.getsid(pid)
        except OSError:
            session = 0  # gone; on OpenBSD, another session than ours
        month = b"JanFebMarAprMayJunJulAugSepOctNovDec".find(words[5]) // 3 + 1
        start = int(b"%s%02d%02d" % (words[8], month, int(words[6])) + words[7].replace(b":", b""))

        cookie = None
        # Arguments and environment, in either order. Who looks for a cookie with grep does not carry it.
        command = b" " + words[9] + b" "
        found = {part.partition(b" ")[0] for part in command.split(b" " + COOKIE_VARIABLE + b"=")[1:]}
        if len(found) == 1 and (MONITOR_COOKIE in found or b" NODEJOBS_RUN=" in command):
            cookie = found.pop()
        return pid, (parent, group, session, start, words[3][:1]), cookie

    def row(self, pid: int) -> "Optional[Row]":
        # What it has shown a tenth of a second ago will do.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        if time.monotonic() - self.looked_at > 0.1 or pid not in self.rows:
            self.processes()
        return self.rows.get(pid)

    def processes(self) -> "Mapping[int, Row]":
        # An -o for each: POSIX takes all that follows a = for the title. -E and e show environments.
        show = b"ps -AEww" if os.uname().sysname == "Darwin" else b"ps axeww"
        text = self.output(show + b" -o pid= -o ppid= -o pgid= -o stat= -o lstart= -o command=")
        shown = [self.parse(line) for line in text.split(b"\n")]
        self.rows = {each[0]: each[1] for each in shown if each}
        self.cookies = {each[0]: each[2] for each in shown if each}
        self.looked_at = time.monotonic()
        if os.getpid() not in self.rows:
            raise OSError(0, "ps does not tell which processes there are, with start times and environments")
        return self.rows

    def cookie_of(self, pid: int) -> "Optional[bytes]":
        return self.cookies.get(pid) if self.row(pid) else None

    def adopt_orphans(self, cookie: bytes) -> None:
        # FreeBSD has procctl(P_PID, pid, PROC_REAP_ACQUIRE, NULL); macOS and the other BSDs have nothing like it.
        if os.uname().sysname == "FreeBSD":
            self.call_library("procctl", 0, os.getpid(), 2, 0)
        elif os.uname().sysname == "Linux":
            self.call_library("prctl", 36, 1, 0, 0, 0)

    def children(self, parent: int) -> "List[int]":
        # Only of use, and worth a look, where orphans are adopted.
        table = self.processes() if os.uname().sysname in ("FreeBSD", "Linux") else {}
        return [pid for pid, row in table.items() if row[0] == parent]

    def watch_process(self, pid: int) -> "Optional[int]":
        import select
        modern: "Any" = select
        if not hasattr(select, "kqueue"):
            return None
        queue = modern.kqueue()
        try:
            queue.control([modern.kevent(pid, modern.KQ_FILTER_PROC, modern.KQ_EV_ADD, modern.KQ_NOTE_EXIT)], 0)
            return os.dup(queue.fileno())  # which can be read when there is an event: see kqueue(2)
        except OSError:
            return None  # it is gone, or a zombie
        finally:
            queue.close()


class Windows(Posix):
    """Windows 8 and newer. The tree of a run is a job object, a lock is a file that is open for writing.

    A handle is an int. See Microsoft's pages on job objects, on CreateFileW (dwShareMode) and on CreateProcessW.
    """

    monitor_os, python_name = "nt", "python"
    store_mode = 0o777  # %LOCALAPPDATA% is private anyway; Python's 0o700 would part a user from the same one elevated

    def kernel(self, name: str, *words: "Any") -> int:
        """Call a function of kernel32; an int is passed as wide as a handle or a pointer is.

        What it returns is taken as 32 bits: Microsoft promises that a handle has no more.
        """
        from ctypes import WinDLL, c_void_p  # type: ignore[attr-defined]
        function = getattr(WinDLL("kernel32", use_last_error=True), name)
        result: int = function(*[c_void_p(word) if isinstance(word, int) else word for word in words])
        return result

    def failure(self, path: "Any") -> OSError:
        """Return why the last call of `kernel` has failed."""
        from ctypes import WinError, get_last_error  # type: ignore[attr-defined]
        error: OSError = WinError(get_last_error())
        error.filename = path
        return error

    def close(self, handle: int) -> None:
        if handle:
            self.kernel("CloseHandle", handle)

    def text(self, word: "Any") -> "Any":
        """Return bytes as os.fsdecode does, and anything else as it is."""
        return word.decode("utf-8", "surrogatepass") if isinstance(word, bytes) else word

    # Who and where we are

    def interpreter(self) -> str:
        # In a virtual environment, sys.executable is a program that starts Python and waits for it.
        path = getattr(sys, "_base_executable", "") or sys.executable or ""
        if os.path.basename(path).lower() in ("python.exe", "python3.exe"):
            return path
        return os.path.join(sys.base_exec_prefix, "python.exe")  # Python is embedded in a program, or has no console

    def host(self) -> str:
        from _socket import gethostname
        return gethostname()

    def user(self) -> str:
        return os.getlogin()

    def creation_mask(self) -> "Optional[int]":
        return None

    def distrust(self, path: str) -> "Tuple[str, str]":
        return "", ""  # %LOCALAPPDATA% is the user's own; another place is his own matter

    def is_own_home(self, path: str) -> bool:
        return True

    def state_home(self) -> str:
        return os.environ.get("LOCALAPPDATA", "")

    def environment(self) -> "Dict[bytes, bytes]":
        return {os.fsencode(key): os.fsencode(value) for key, value in os.environ.items()}

    def variable(self, name: str) -> str:
        return name.upper()  # Windows does not tell Path from PATH

    def prepare_output(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if not hasattr(stream, "reconfigure"):
                continue
            if stream.isatty():
                self.allow_escapes(stream.fileno())
            elif "PYTHONIOENCODING" not in os.environ:
                stream.reconfigure(encoding="utf-8")  # a pipe would have the code page's, which lacks most letters

    def allow_escapes(self, fd: int) -> None:
        """Let a console understand colours: ENABLE_VIRTUAL_TERMINAL_PROCESSING, from Windows 10 on."""
        from ctypes import byref, c_uint
        from msvcrt import get_osfhandle  # type: ignore[attr-defined]
        mode = c_uint()
        if self.kernel("GetConsoleMode", get_osfhandle(fd), byref(mode)):
            self.kernel("SetConsoleMode", get_osfhandle(fd), mode.value | 4)

    def boot_id(self) -> str:
        # NtQuerySystemInformation(SystemTimeOfDayInformation): the time of the boot, and by how much it was
        # corrected since, because somebody set the clock.
        from ctypes import WinDLL, c_longlong, sizeof  # type: ignore[attr-defined]
        times = (c_longlong * 6)()
        WinDLL("ntdll").NtQuerySystemInformation(3, times, sizeof(times), None)
        return "%s %d" % (self.host(), (times[0] - times[4]) // 10000000)

    # Command lines

    def quote(self, word: str) -> str:
        from subprocess import list2cmdline
        return list2cmdline([word])

    def execution(self, argv: "List[bytes]", line: "Optional[bytes]", path: bytes, cwd: "Optional[str]",
                  ) -> "Dict[str, Any]":
        from shutil import which
        from subprocess import list2cmdline
        words = [os.fsdecode(word) for word in argv]
        if line is None:
            name = os.path.join(cwd or "", words[0]) if os.path.dirname(words[0]) else words[0]
            places = os.fsdecode(path)
            program = os.path.abspath(which(name, path=places) or which(name + ".exe", path=places) or name)
            if not program.lower().endswith((".bat", ".cmd")):
                return {"program": program, "line": list2cmdline(words), "shown": words[0], "place": cwd, "refused": ""}

        shell = os.environ.get("COMSPEC", "C:\\Windows\\System32\\cmd.exe")
        shell_line, unsafe = words[0], "\r\n"  # of several lines, cmd would execute the first only
        if line is None:
            # cmd executes a batch file, and reads its arguments in its own way; a quotation mark would end the quoting.
            words[0] = program
            shell_line, unsafe = " ".join(['"%s"' % word for word in words]), '"%\r\n'
        refused = ""
        if set(unsafe) & set("".join(words)):
            refused = "22 cannot give cmd a line break, nor a batch file a quotation mark or a percent sign"
        if os.path.abspath(cwd or "").startswith("\\\\"):
            refused = "22 cannot execute cmd in a network directory, which it would leave for that of Windows"
        # /s: cmd takes away the first and the last quotation mark, and touches nothing between them
        line_of_shell = '"%s" /d /v:off /s /c "%s"' % (shell, shell_line)
        return {"program": shell, "line": line_of_shell, "shown": "cmd", "place": cwd, "refused": refused}

    # Files

    def create_file(self, path: "Any", access: int, share: int, creation: int) -> int:
        """Open a file by CreateFileW, not through a link; return its handle."""
        # FILE_FLAG_OPEN_REPARSE_POINT, FILE_ATTRIBUTE_NORMAL
        handle = self.kernel("CreateFileW", self.text(path), access, share, None, creation, 0x00200080, None)
        if handle == -1:
            raise self.failure(path)
        return handle

    def as_fd(self, handle: int, flags: int) -> int:
        """Return a descriptor that has this handle from now on."""
        from msvcrt import open_osfhandle  # type: ignore[attr-defined]
        try:
            fd: int = open_osfhandle(handle, flags | 0x8080)  # O_NOINHERIT, O_BINARY
            return fd
        except OSError:
            self.close(handle)
            raise

    def open(self, path: "Any", flags: int, mode: int = 0o644) -> int:
        # os.open would not let anybody rename or delete the file while we have it open. All that we write goes to the
        # end, atomically: FILE_APPEND_DATA, SYNCHRONIZE.
        access = 0x80000000  # GENERIC_READ
        if flags & 3 != os.O_RDONLY:
            access |= 0x00100004
        creation = 3  # OPEN_EXISTING
        if flags & os.O_CREAT:
            creation = 1 if flags & os.O_EXCL else 4  # CREATE_NEW, OPEN_ALWAYS
        return self.as_fd(self.create_file(path, access, 7, creation), flags & 3)

    def move(self, path: str, to: str) -> None:
        # A directory cannot go while a file in it is open. The lock, which we have open ourselves, goes first.
        # If somebody creates a new lock meanwhile, the directory stays where it is, and is theirs.
        aside = to + "." + LOCK
        try:
            os.rename(path + SEP + LOCK, aside)
            os.unlink(aside)  # when we close it; or the next sweep deletes it
        except OSError:
            pass  # there is none; or the directory cannot go either, and says so

        deadline = time.monotonic() + 1.0
        while True:
            try:
                return os.replace(path, to)
            except PermissionError:  # a reader, or a search for viruses, may have a file open for a moment
                if time.monotonic() >= deadline:
                    raise PermissionError(errno.EACCES, "a file in it is open in another program", path) from None
            time.sleep(POLL_SECONDS)

    def block_size(self, fd: int) -> int:
        return 4096

    def sync_directories(self, path: "Any") -> None:
        pass  # NTFS keeps a journal of its own

    # Locks

    def take_lock(self, path: "Any", seconds: float) -> int:
        # Open for writing, and shared with readers only: a second one is refused, until the last handle is
        # closed or its process dies.
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.as_fd(self.create_file(path, 0x40000000, 5, 4), os.O_WRONLY)
            except OSError as error:
                if getattr(error, "winerror", 0) != 32:  # ERROR_SHARING_VIOLATION
                    raise
            if time.monotonic() >= deadline:
                return -1
            time.sleep(POLL_SECONDS)

    def drop_lock(self, fd: int) -> None:
        pass  # it goes with its handle

    def take_run_lock(self, path: bytes) -> int:
        return self.take_lock(path, RETRY_SECONDS)

    def is_job_locked(self, path: str) -> bool:
        try:
            self.close(self.create_file(path, 0x80000000, 5, 3))  # not shared with one who writes
        except FileNotFoundError:
            pass
        except OSError as error:
            if getattr(error, "winerror", 0) != 32:
                raise
            return True
        return False

    is_monitored = is_job_locked

    # Processes

    def process(self, pid: int, rights: int) -> int:
        """Open a process; 0 if it is gone or not ours to open.

        0x00101000 is SYNCHRONIZE, to wait for it, and PROCESS_QUERY_LIMITED_INFORMATION, to know its times.
        """
        return self.kernel("OpenProcess", rights, 0, pid)

    def start_time(self, pid: int) -> "Optional[int]":
        from ctypes import byref, c_ulonglong
        handle = self.process(pid, 0x00101000)
        if not handle:
            return None
        times = (c_ulonglong * 4)()
        known = self.kernel("GetProcessTimes", handle, *[byref(times, 8 * place) for place in range(4)])
        # Somebody's handle keeps a process that has ended, and its pid. 258: WAIT_TIMEOUT
        lives = self.kernel("WaitForSingleObject", handle, 0) == 258
        self.close(handle)
        return times[0] if known and lives else None

    def is_command(self, run: "Run") -> bool:
        return self.start_time(run.pid) == run.start

    def reap(self, pid: int, wait: bool) -> bool:
        return True

    def await_handle(self, handle: int, deadline: float) -> bool:
        """Wait until a process has ended, or the deadline; less long if Ctrl-C interrupts it."""
        from _winapi import WaitForMultipleObjects  # type: ignore[attr-defined]
        left = min(max(deadline - time.monotonic(), 0.0), 86400.0)
        try:
            found: int = WaitForMultipleObjects([handle], False, int(1000 * left) + 1)
            return found == 0
        except InterruptedError:
            return False  # the host's own handler has taken note

    def await_gone(self, pid: int, lives: "Any", deadline: float, pause: float = 0.0) -> bool:
        handle = self.process(pid, 0x00101000)
        try:
            while lives():
                if time.monotonic() >= deadline:
                    return False
                if pause or not handle:
                    time.sleep(POLL_SECONDS)
                else:
                    self.await_handle(handle, deadline)
            return True
        finally:
            self.close(handle)

    # The tree of a run

    def job_name(self, cookie: bytes) -> str:
        return "Global\\nodejobs-" + cookie.decode()

    def job(self, cookie: bytes) -> int:
        """Open the job object of a run; 0 if nobody has it open any more, or it is not ours."""
        # The monitor has, and the command; it has no name any more when both have ended.
        return self.kernel("OpenJobObjectW", 0x1F001F, 0, self.job_name(cookie))  # JOB_OBJECT_ALL_ACCESS

    def members(self, job: int) -> "List[int]":
        """Return the pids of the processes of a job object that live."""
        from ctypes import c_size_t, sizeof
        # JobObjectBasicProcessIdList: two numbers of 32 bits, then the pids. Of more than this, it tells the first.
        table = (c_size_t * 16384)()
        self.kernel("QueryInformationJobObject", job, 3, table, sizeof(table), None)
        return [pid for pid in table[8 // sizeof(c_size_t):] if pid]

    def remaining(self, run: "Run", known: "Members") -> "Members":
        job = self.job(run.cookie)
        if not job:
            return {}
        found = {pid: self.start_time(pid) or 0 for pid in self.members(job)}  # 0: it may not be opened
        self.close(job)
        return found

    def end_trees(self, runs: "Sequence[Tuple[Run, Members]]", number: int, grace: float) -> "List[List[int]]":
        deadline = time.monotonic() + KILL_SECONDS
        while True:
            left = []
            for run, known in runs:
                members = self.remaining(run, known)
                known.update(members)
                left.append(sorted(members))
                job = self.job(run.cookie)
                if job:
                    self.kernel("TerminateJobObject", job, KILLED)  # Windows has no way to ask first
                self.close(job)
            if not any(left) or time.monotonic() >= deadline:
                return left
            time.sleep(POLL_SECONDS)

    # Starting

    def start_monitor(self, argv: "List[bytes]", environment: "Dict[bytes, bytes]", payload: bytes,
                      job_lock: int, run_lock: str) -> bytes:
        from _winapi import DuplicateHandle, GetCurrentProcess  # type: ignore[attr-defined]
        from msvcrt import get_osfhandle  # type: ignore[attr-defined]
        from subprocess import DEVNULL, PIPE, Popen
        words = [os.fsdecode(word) for word in argv]
        variables = {os.fsdecode(key): os.fsdecode(value) for key, value in environment.items()}
        # The command's, that is: a monitor itself heeds none of them. In a file it would write in the code page's.
        variables = dict({"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}, **variables)
        options: "Dict[str, Any]" = {"stdin": PIPE, "stdout": PIPE, "stderr": DEVNULL, "env": variables}
        try:
            # CREATE_NO_WINDOW: a console that nobody sees, and which the command shares.
            # CREATE_BREAKAWAY_FROM_JOB: a job that a job has started is not its child.
            monitor: "Any" = Popen(words, creationflags=0x09000000, **options)
        except PermissionError:  # a job object that lets nobody go
            monitor = Popen(words, creationflags=0x08000000, **options)
        monitor.returncode = 0  # nobody waits for it, and it needs no warning

        # The lock is handed over, not inherited: CreateProcess makes a process suspended, and who is killed
        # before it has resumed it leaves it so for ever, with all that it has inherited.
        process = self.process(monitor.pid, 0x40)  # PROCESS_DUP_HANDLE
        try:
            with monitor.stdin:
                # 2: DUPLICATE_SAME_ACCESS
                lock = DuplicateHandle(GetCurrentProcess(), get_osfhandle(job_lock), process, 0, False, 2)
                monitor.stdin.write(payload + b"%20d" % lock)
        except OSError:
            pass  # it has died, or failed, before it has read all; its report says so
        self.close(process)
        with monitor.stdout:
            report: bytes = monitor.stdout.read1(65536)
        return report

    def start_apart(self, argv: "List[bytes]", stdin: int) -> None:
        from subprocess import DEVNULL, Popen
        Popen(argv, stdin=stdin, stdout=DEVNULL, stderr=DEVNULL, creationflags=8)  # DETACHED_PROCESS

    def begin_monitor(self) -> None:
        for number in (2, 21):  # SIGINT, SIGBREAK: somebody in the command may send them to all of its console
            signal.signal(number, signal.SIG_IGN)
        lock = self.as_fd(int(sys.stdin.buffer.read(20)), os.O_WRONLY)  # see start_monitor
        os.dup2(lock, 2)
        os.close(lock)

    def adopt_orphans(self, cookie: bytes) -> None:
        from ctypes import c_size_t, c_uint, sizeof
        self.own_job = self.kernel("CreateJobObjectW", None, self.job_name(cookie))
        if not self.own_job:
            raise self.failure(None)
        # JOB_OBJECT_LIMIT_BREAKAWAY_OK, in JobObjectExtendedLimitInformation: monitors of other runs may leave.
        limits = (c_uint * (20 + 2 * sizeof(c_size_t)))()
        limits[4] = 0x800
        self.kernel("SetInformationJobObject", self.own_job, 9, limits, sizeof(limits))

    def hold_command(self, order: "Dict[str, Any]", stdout: int, stderr: int) -> "Tuple[Any, str]":
        if order["refused"]:
            return None, order["refused"]
        from _winapi import CreateProcess  # type: ignore[attr-defined]
        from msvcrt import get_osfhandle  # type: ignore[attr-defined]
        changes = {self.text(name): self.text(value) for name, value in order["environment"].items()}
        variables = dict(os.environ, **changes)
        environment = {name: value for name, value in variables.items() if value is not None}

        # It inherits three files; and the job object, so that this is found by its name if we are killed.
        stdin = os.open(NULL, os.O_RDONLY)
        handles = [get_osfhandle(fd) for fd in (stdin, stdout, stderr)]
        inherited = list({*handles, self.own_job})
        for handle in inherited:
            os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined]
        startup = type("StartupInfo", (), {  # STARTF_USESTDHANDLES
            "dwFlags": 0x100, "wShowWindow": 0, "hStdInput": handles[0], "hStdOutput": handles[1],
            "hStdError": handles[2], "lpAttributeList": {"handle_list": inherited}})
        try:
            # 4: CREATE_SUSPENDED
            process, thread, pid, _ = CreateProcess(
                order["program"], order["line"], None, None, True, 4, environment, order["place"], startup)
            if not self.kernel("AssignProcessToJobObject", self.own_job, process):
                error = self.failure(None)
                self.forbid((pid, process, thread))
                raise error
            return (pid, process, thread), ""
        except OSError as error:
            if error.errno in (12, 24):
                raise  # ENOMEM, EMFILE: that says nothing about the job
            return None, self.why_not(error, order)
        finally:
            os.close(stdin)

    def why_not(self, error: "Any", order: "Dict[str, Any]") -> str:
        """Say why a command cannot be executed: an error number, a blank and words."""
        what = "execute " + order["shown"]
        if error.winerror == 267:  # ERROR_DIRECTORY
            what = "change to the working directory " + order["place"]
        hints = {2: " (it is not there, nor on PATH)",
                 193: " (it is no program: name what executes it, as in python it.py)"}
        # There are many reasons that have no number of their own in errno.
        return "%d cannot %s: %s%s" % (error.errno or 22, what, error.strerror, hints.get(error.winerror, ""))

    def permit(self, held: "Any") -> str:
        self.kernel("ResumeThread", held[2])
        self.close(held[2])
        return ""

    def forbid(self, held: "Tuple[Any, ...]") -> None:
        self.kernel("TerminateProcess", held[1], KILLED)

    # Waiting for the command

    def await_child(self, held: "Any", pipes: "List[int]", deadline: float) -> "Tuple[Optional[Ended], List[int]]":
        from _winapi import GetExitCodeProcess  # type: ignore[attr-defined]
        ready = [pipe for pipe in pipes if self.can_read(pipe)]
        if pipes:  # which nothing can wait for
            deadline = 0.0 if ready else min(deadline, time.monotonic() + 5 * POLL_SECONDS)
        if held is None:
            for pid in self.adopted()[:1]:
                self.await_end(pid, self.start_time(pid) or 0, deadline)
            time.sleep(0.0 if ready else POLL_SECONDS)  # it may not be ours to open, so not be waited for
            return None, ready

        pid, process, _ = held
        if not self.await_handle(process, deadline):
            return None, ready
        code = GetExitCodeProcess(process)
        return ((pid, None, SIGKILL) if code == KILLED else (pid, code, None)), ready

    def can_read(self, pipe: int) -> bool:
        """Tell whether there is something in a pipe, or its end."""
        from _winapi import PeekNamedPipe  # type: ignore[attr-defined]
        from msvcrt import get_osfhandle  # type: ignore[attr-defined]
        try:
            available: int = PeekNamedPipe(get_osfhandle(pipe), 0)[0]
            return available > 0
        except BrokenPipeError:
            return True

    def usage(self) -> "Tuple[float, Optional[int]]":
        from ctypes import c_longlong, sizeof
        times = (c_longlong * 6)()  # JobObjectBasicAccountingInformation: of user and of kernel time, 100 ns each
        self.kernel("QueryInformationJobObject", self.own_job, 1, times, sizeof(times), None)
        return (times[0] + times[1]) / 1e7, None

    def adopted(self) -> "List[int]":
        return self.members(self.own_job)


# The one place that asks where we are.
platform: "Posix" = (Windows() if os.name == "nt" else
                        Linux() if sys.platform.startswith("linux") and os.access("/proc/self/stat", os.R_OK) else Ps())


# ------ 4. store ------

def read_journal(path: str) -> "Optional[bytes]":
    """Return a journal's bytes; None if there is none. Of one that is too long, its middle is one damaged line."""
    try:
        # It must neither follow a planted link nor hang on a planted FIFO.
        fd = platform.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = part = os.read(fd, 65536)
        parts = [part]
        while len(part) == 65536 and len(parts) * len(part) <= JOURNAL_BYTES:
            part = os.read(fd, 65536)
            parts.append(part)
        if len(parts) == 1:
            return content
        content = b"".join(parts)
        if len(content) > JOURNAL_BYTES or content.count(b"\n") > JOURNAL_LINES:
            os.lseek(fd, -65536, os.SEEK_END)
            content = content[:content.find(b"\n") + 65536] + b"\n?\n" + os.read(fd, 65536)
        return content
    finally:
        os.close(fd)


def read_entry(line: str) -> "Any":
    """Return the object in a line of a journal; None if there is none, so that the line is damaged."""
    try:
        entry = read_json(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def fold(journal: bytes, running: bool = False) -> "Dict[str, Any]":
    """Merge a journal's lines into one state (rule 2); lines that are not ours are counted as "damaged".

    Of what is `running`, the facts of the end (rule 6) count only together with the end status.
    """
    journal = journal[:journal.rfind(b"\n")]  # what follows the last newline is torn
    text = journal.decode("ascii", "backslashreplace")  # we escape what is not ASCII; so such a line is damaged
    try:
        # One call for all lines: twice as fast as each alone. The newline stays, as it is an error within a text.
        entries = read_json("[" + text.replace("\n", ",\n") + "]")
    except ValueError:
        entries = []
    if len(entries) != text.count("\n") + 1:
        entries = [read_entry(line) for line in text.split("\n") if line.strip()]

    state: "Dict[str, Any]" = {}
    facts: "Dict[str, Any]" = {}
    ours = [entry for entry in entries if isinstance(entry, dict)]
    damaged = len(entries) - len(ours)
    for entry in ours:
        status = entry.get("status")
        if not state and status not in (QUEUED, STARTING):
            damaged += 1
        if status == FAILED_START and "last_pid" in state and "outcome" not in (facts or state):
            continue  # rule 4: a launcher gave up too late, the monitor had come first
        if status in ENDED:
            state.update(facts, **entry)
            break
        if running and entry.get("outcome") in ENDED:
            facts = entry
        else:
            state.update(entry)
    if damaged:
        state["damaged"] = damaged
    return state


def older_logs(path: str) -> "List[Tuple[int, str]]":
    """Return (offset in the stream, path) of the logs that max_log has set aside for the one at `path`, in order."""
    directory, _, name = path.rpartition(SEP)
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted([(int(old[7:-4]), directory + SEP + old) for old in names
                   if old[:7] == name[:7] and old[7:-4].isdecimal() and old[-4:] == ".log"])


def open_log_at(path: str, place: float) -> "Tuple[int, Any]":
    """Open the file that holds a place in a log, or the oldest if max_log has dropped that; return its offset and it.

    The file is None if there is none.
    """
    while True:
        older = older_logs(path)
        begin, file = 0, None
        try:
            end = older[-1][0] + os.stat(older[-1][1]).st_size if older else 0
            files = [*older, (end, path)]
            begin, name = ([one for one in files if one[0] <= place] or files[:1])[-1]
            file = open(platform.open(name, os.O_RDONLY), "rb", buffering=0)
        except FileNotFoundError:
            pass
        if older == older_logs(path):
            return begin, file
        if file is not None:  # the newest was set aside, and a new one begun, while we looked
            file.close()


def end_of_log(path: str) -> int:
    begin, file = open_log_at(path, FOREVER)
    if file is None:
        return begin
    with file:
        return int(begin + file.seek(0, 2))


def place_of_last(path: str, lines: int) -> int:
    """Return where in a log its last lines begin, however long they are; of 0 lines, its end."""
    place, last = end_of_log(path), 1
    while place and lines:
        begin, file = open_log_at(path, place - 1)
        if file is None or begin >= place:  # max_log has dropped the lines before
            break
        with file:
            start = max(begin, place - (1 << 20))  # a line may be gigabytes long
            file.seek(start - begin)
            pieces = file.read(place - start - last).rsplit(b"\n", lines)  # a newline at the very end begins no line
        lines -= len(pieces) - 1
        place, last = start + (0 if lines else len(pieces[0]) + 1), 0
    return place


CUT, GONE = "truncated", "gone"  # what somebody may have done to a log


def read_log(path: str, place: int, is_there: "Any" = lambda: True) -> "Iterator[Tuple[bytes, int, str]]":
    """Read a log as it grows, from a place on: yield (what has come, the place after it, what is wrong), for ever.

    A place counts all that was ever written. What has come is at most 64 KiB, and b"" whenever the end is reached.
    CUT is wrong where somebody has emptied or rewritten the file: what comes next is from its beginning. GONE is if
    no file is in its place, or another; the one that was open is read to its end all the same. `is_there` is asked
    when a file was opened: whether the run still is, or that path may be another run's.
    """
    file: "Any" = None
    try:
        while True:
            if file is None:
                begin, file = open_log_at(path, place)
                if file is not None and not is_there():
                    file.close()
                    file = None
                if file is None:
                    yield b"", place, "" if older_logs(path) else GONE
                    continue
                place = max(place, begin)
                before = min(place - begin, 64)  # bytes of what comes just before our place
                file.seek(place - begin - before)
                seen = file.read(before)

            # It was cut if what we have read last is no longer before our place. Its size does not say so: it may
            # have grown again. (C libraries of Windows stay at an end that they have seen, unless we seek.)
            file.seek(place - begin - before)
            part = file.read(65536)
            if len(seen) < before or not part.startswith(seen):
                place, before, seen = begin, 0, b""
                yield b"", place, CUT
            elif len(part) > before:
                new, seen = part[before:], part[-64:]
                place, before = place + len(new), len(seen)
                yield new, place, ""
            elif not is_moved(path, file):
                yield b"", place, ""
            elif not older_logs(path):
                yield b"", place, GONE
            else:  # max_log has set it aside, so it is complete
                file.close()
                file = None
    finally:
        if file is not None:
            file.close()


def is_moved(path: str, file: "Any") -> bool:
    """Tell whether an open file is not, or not any more, what is at a path."""
    try:
        return os.stat(path).st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return True


def read_whole(fd: int) -> bytes:
    """Return what an open file holds, as far as a journal can go."""
    os.lseek(fd, 0, 0)
    return os.read(fd, min(os.fstat(fd).st_size + 1, JOURNAL_BYTES))


def append_line(fd: int, entry: "Dict[str, Any]", room: int) -> None:
    """Append one line to a journal that is open for reading and appending.

    A line goes in one write; where a full disk tore the last one, the new one starts afresh. With `room`
    it is filled up with blanks until the journal's last block has so many bytes left: file systems give
    out blocks, so what still fits into one can be written to a full disk too.
    """
    size = os.fstat(fd).st_size
    line = to_json(entry).encode()
    if size and os.lseek(fd, -1, 2) >= 0 and os.read(fd, 1) != b"\n":
        line = b"\n" + line
    if room:
        block = platform.block_size(fd)
        left = -(size + len(line) + 1) % block if block >= 2 * room else room
        line += b" " * (left + 1 if left < room else 0)
    line += b"\n"
    while line:
        line = line[os.write(fd, line):]  # after a short write, the next one says why


def read_file(path: str) -> bytes:
    """Return what is in a file; b"" if there is none."""
    try:
        fd = platform.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return read_whole(fd)
    finally:
        os.close(fd)


def unlink(path: str) -> None:
    """Delete a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def is_run_name(name: str) -> bool:
    return len(name) < 10 and name.isdecimal() and name == "%06d" % int(name)


def is_our_lock(directory: str) -> bool:
    """Tell whether there is a lock of ours in a directory: a file that never holds anything."""
    try:
        found = os.lstat(directory + SEP + LOCK)
    except FileNotFoundError:
        return False
    return found.st_mode & 0xF000 == 0x8000 and found.st_size == 0


def is_our_run(path: str) -> bool:
    """Tell whether a directory whose name is a run's was made by us."""
    names = os.listdir(path)
    return is_our_lock(path) or JOURNAL in names and not os.path.isdir(path + SEP + JOURNAL) or (
        all(map(is_launch, names)) and is_our_lock(os.path.dirname(path)))


def is_our_job(path: str) -> bool:
    """Tell whether what is in the store was made by us: a directory that holds a run, or nothing but our lock."""
    if os.lstat(path).st_mode & 0xF000 != 0x4000:
        return False
    with os.scandir(path) as entries:
        inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
    if [entry.name for entry in inside] == [LOCK]:
        return is_our_lock(path)
    return any(is_run_name(entry.name) and entry.is_dir(follow_symlinks=False) and is_our_run(entry.path)
               for entry in inside)


def is_launch(name: str) -> bool:
    """Tell whether this is the name of a file that has what starts a queued run: COOKIE.launch."""
    return name[32:] == LAUNCH and is_cookie(name[:32])


def is_our_file(name: str) -> bool:
    """Tell whether a file in a run's directory has a name that we give."""
    return name in (JOURNAL, LOCK, STDOUT_LOG, STDERR_LOG) or is_launch(name) or (
        name[:7] in ("stdout.", "stderr.") and name[7:-4].isdecimal() and name[-4:] == ".log")


def survey(path: str, is_ours: "Any" = is_our_file) -> "Tuple[List[str], List[str]]":
    """Return the paths of what is in a directory of ours: the files whose names are ours, and what is somebody's."""
    ours: "List[str]" = []
    foreign: "List[str]" = []
    with os.scandir(path) as entries:
        for entry in entries:
            mine = is_ours(entry.name) and not entry.is_dir(follow_symlinks=False)
            (ours if mine else foreign).append(entry.path)
    return sorted(ours, reverse=True), foreign  # as they can be deleted: a run is one to the last, the journal


def clear(path: str, is_ours: "Any" = is_our_file) -> None:
    """Delete what we have made in a directory of ours, then the directory, unless something stays in it."""
    ours, foreign = survey(path, is_ours)
    for file in ours:
        os.unlink(file)
    if not foreign:
        os.rmdir(path)


def full_path(path: str) -> str:
    """Return the whole path of a directory, with a leading ~ expanded. Raises SchemaError where that cannot be."""
    expanded = os.path.expanduser(path)
    if path[:1] == "~" and not os.path.isabs(expanded):
        raise SchemaError("nobody knows the home directory in %r; a directory of that very name is ./%s" % (path, path))
    try:
        return os.path.abspath(expanded)
    except FileNotFoundError:
        raise SchemaError("our working directory was deleted; say the whole path of %r" % path) from None


def working_directory() -> "Optional[str]":
    """Return ours; None if it was deleted or cannot be known."""
    try:
        return os.getcwd()
    except OSError:
        return None


def default_db_path() -> str:
    """Return $NODEJOBS_DB, else `nodejobs` in $XDG_STATE_HOME or where the system keeps a user's state."""
    chosen = os.environ.get("NODEJOBS_DB")
    if chosen:
        return chosen
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # its specification says that a relative one is ignored
        home = platform.state_home()
    if not home:
        raise StoreError("there is no home directory to keep the jobs in; say where with --db DIR, "
                         "Jobs(db_path=...) or NODEJOBS_DB", "~")
    return os.path.join(home, "nodejobs")


def make_directory(path: str, mode: int) -> None:
    """Make a directory, and those that it is in, if there is none."""
    try:
        os.mkdir(path, mode)
    except FileNotFoundError:
        make_directory(os.path.dirname(path), 0o755)
        make_directory(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


class Translate:
    """A context in which an OSError becomes a StoreError that says what was tried."""

    def __init__(self, action: str, path: str) -> None:
        self.action, self.path = action, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: "Any", error: "Any", trace: "Any") -> None:
        if isinstance(error, OSError) and error.errno is not None:  # a host's handler may raise a bare TimeoutError
            raise StoreError("cannot %s %s: %s; mend that, or choose another place with --db DIR, "
                             "Jobs(db_path=...) or NODEJOBS_DB"
                             % (self.action, error.filename or self.path, error.strerror), self.path) from error
        if isinstance(error, ImportError):  # a module of Python's own, loaded when it was needed
            raise StoreError("cannot %s %s: %s; are there too few file descriptors (ulimit -n)?"
                             % (self.action, self.path, error), self.path) from error


class Lock:
    """A lock file of ours as a context; `fd` is -1 where somebody else has it, and we were to wait no time at all."""

    starting = False  # whether a monitor may have inherited it

    def __init__(self, path: str, what: str, seconds: float) -> None:
        self.path, self.what, self.seconds, self.fd = path, what, seconds, -1

    def __enter__(self) -> "Any":
        self.take()
        return self

    def take(self) -> None:
        """Take it. Raises StoreError if somebody else has had it for as long as we were to wait."""
        self.fd = platform.take_lock(self.path + SEP + LOCK, self.seconds)
        if self.fd < 0 < self.seconds:
            raise StoreError("%s is locked: another nodejobs has been at it, starting or removing, for %d s; "
                             "try again, or see who has %s open" % (self.what, self.seconds, self.path), self.path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __exit__(self, kind: "Any", error: "Any", trace: "Any") -> None:
        # If interrupted in the middle of a start: the monitor keeps the lock (rule 1).
        if not self.starting and self.fd >= 0:
            platform.drop_lock(self.fd)
        self.close()


class JobLock(Lock):
    """The lock of a job (rule 1)."""

    def __init__(self, store: "Store", job_id: str, create: bool, wait: bool = True) -> None:
        super().__init__(store.job_dir(job_id), "job %r" % job_id, LOCK_SECONDS if wait else 0.0)
        self.store, self.job_id, self.create = store, job_id, create

    def __enter__(self) -> "JobLock":
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not self.attempt():
                self.close()
                if time.monotonic() > deadline:
                    raise StoreError("the directory of %s vanishes again and again" % self.what, self.path)
            return self
        except BaseException:
            self.close()
            raise

    def attempt(self) -> bool:
        """Take the lock; False if the job was removed meanwhile, so that the lock is of a deleted file."""
        if self.create:
            self.store.make_locked(self.path)
        try:
            # More than one look, as somebody may remove the job, or runs of it, in the middle of one.
            if not any(is_our_job(self.path) for _ in range(5)):
                if not self.create:
                    raise NotADirectoryError(errno.ENOTDIR, "it is no job", self.path)
                raise StoreError("%s was not made by nodejobs, or holds what was not, so no job can have that id; move "
                                 "it away, or choose another id" % self.path, self.path)
            self.take()
            return self.fd < 0 or os.fstat(self.fd).st_ino == os.stat(self.path + SEP + LOCK).st_ino
        except FileNotFoundError:
            if not os.path.lexists(self.path) and not self.create:
                raise
            return False


def write_new(path: str, mode: int, content: bytes, lasting: bool = True) -> None:
    """Write a new file, by default one that outlasts a power cut."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        while content:
            content = content[os.write(fd, content):]
        if lasting:
            os.fsync(fd)
    finally:
        os.close(fd)
    if lasting:
        platform.sync_directories(os.fsencode(os.path.dirname(path)))


def launch_path(logdir: str, cookie: "Optional[str]") -> str:
    """Return where that is written which starts a queued run, its environment too."""
    return "%s%s%s%s" % (logdir, SEP, cookie, LAUNCH)


def this_process() -> str:
    return "%s, pid %d" % (platform.user(), os.getpid())


class Signs:
    """What shows whether a run whose journal tells no end is active."""

    starting = False   # somebody holds the job's lock, and has said that he starts it
    monitored: "Optional[bool]" = None  # whether its monitor holds the run's lock; None: we may not ask
    why = ""           # why we may not
    lives = False      # its command's process, or, if we may not ask for the lock, its monitor's, is there
    same_boot = False  # its pids mean something here
    active = False     # somebody may write to its journal yet


def verdict(state: "Dict[str, Any]", seen: Signs) -> "Tuple[Optional[str], Optional[str]]":
    """Decide the status of a run whose journal tells no end, and say what is wrong: here a job is called lost."""
    status = state.get("status")
    if status == QUEUED or seen.starting:
        return status, None
    if seen.monitored:  # a full disk may have kept the monitor from writing that it runs
        return STOPPING if status == STOPPING else RUNNING, None
    if state.get("outcome") in ENDED:
        return state["outcome"], None  # rule 6: the machine went down between the two lines
    if seen.lives:
        return STOPPING if status == STOPPING else RUNNING, None
    if seen.monitored is None or status is None and "status" in state:
        return None, seen.why or None  # who may not read cannot know

    if status == STARTING and "last_pid" not in state:  # rule 4
        if "queued_at" in state:
            return QUEUED, None  # who was about to start it was killed
        if seen.same_boot:
            return FAILED_START, "nodejobs was killed while it started the job; the command never ran"
        return LOST, ("nobody can know whether it ran: the machine went down, and what was written of it last may be "
                      "gone")
    return LOST, "how it ended is unknown: its monitor was killed, the machine went down or the disk is full"


def contradicts_itself(state: "Dict[str, Any]") -> bool:
    """Tell whether the facts of an end (rule 6) do not go together, or not with the status."""
    status, outcome = state.get("status"), state.get("outcome")
    if outcome is None:
        return status in (FINISHED, FAILED)
    if outcome not in ENDED or status in ENDED and status != outcome:
        return True
    if outcome == FINISHED and state.get("exit_code") != 0:
        return True
    return state.get("exit_code") is not None and state.get("signal") is not None


class Store:
    """Directories <-> records. It starts and signals nothing."""

    def __init__(self, path: str, record_class: "Type[JobRecord]" = JobRecord, in_home: bool = False) -> None:
        self.path, self.record_class, self.in_home = full_path(path), record_class, in_home
        fields = [(key, field) for key, field in record_class.fields.items() if not field.derived]
        self.kinds = {(key, kind) for key, field in fields for kind in (*field.kinds, type(None))}
        self.fits = {key: field.fits for key, field in fields if field.fits is not None}
        self.blank = record_class.defaults()

    def make(self) -> None:
        """Make the store's directory, for its owner only, if it is not there yet; see that it is ours.

        Raises StoreError.
        """
        if not os.path.isdir(self.path):
            if self.in_home and not platform.is_own_home(self.path):
                raise StoreError("%s would be in the home directory of somebody else (is HOME that of another user, as "
                                 "with sudo?); say where with --db DIR, Jobs(db_path=...) or NODEJOBS_DB, or use "
                                 "sudo -H" % self.path, self.path)
            make_directory(self.path, platform.store_mode)
        self.check_owner()

    def is_trusted(self) -> bool:
        """Tell whether our user has said that whoever may write to the store may act as we do."""
        trusted = os.environ.get("NODEJOBS_TRUST_DB")
        return bool(trusted) and os.path.realpath(trusted or "") == os.path.realpath(self.path)

    def check_owner(self) -> None:
        """Raise StoreError unless nobody but our user can write to the store's directory, as ssh does for its keys."""
        if self.is_trusted():
            return
        why = way = ""
        try:
            with Translate("use", self.path):
                why, way = platform.distrust(self.path)
        except StoreError as error:
            if not isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise
        if why:
            raise StoreError("nothing is written to %s: %s, and who can write there could make you run or stop "
                             "anything. Use --db %s, which nodejobs makes for you alone; or %s; or, if whoever may "
                             "write there may act as you, set NODEJOBS_TRUST_DB=%s" % (
                                 self.path, why, os.path.join(self.path, "nodejobs"),
                                 way if way[:4] == "sudo" else "%s %s" % (way, self.path), self.path), self.path)

    def make_locked(self, path: str) -> bool:
        """Make a job's directory; False if there is something of that name.

        It has its lock from the first moment on: that tells it from an empty directory of somebody's.
        """
        if os.path.lexists(path):
            return False
        fresh = self.aside("new")
        os.mkdir(fresh, 0o755)
        try:
            os.close(platform.open(fresh + SEP + LOCK, os.O_WRONLY | os.O_CREAT, 0o600))
            os.rename(fresh, path)
            return True
        except OSError as error:
            self.sweep(fresh)
            # Somebody else has made it at the same time; or has swept ours away, as if it had been left behind.
            if os.path.lexists(path) or isinstance(error, FileNotFoundError):
                return False
            raise

    def job_dir(self, job_id: str) -> str:
        return self.path + SEP + escape_id(job_id)

    def run_dir(self, job_id: str, run: int) -> str:
        return "%s%s%06d" % (self.job_dir(job_id), SEP, run)

    def job_dirs(self) -> "List[Tuple[str, str]]":
        """Return the ids that have a directory, with its path, sorted."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries
                         if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        ids = [(unescape_id(name), name) for name in names]
        return sorted([(job_id, self.path + SEP + name) for job_id, name in ids if job_id is not None])

    def runs(self, directory: str) -> "List[int]":
        """Return the numbers of the run directories in a job's directory, ascending."""
        try:
            with os.scandir(directory) as entries:
                return sorted([int(entry.name) for entry in entries
                               if is_run_name(entry.name) and entry.is_dir(follow_symlinks=False)])
        except (FileNotFoundError, NotADirectoryError):
            return []  # other errors say nothing about what is there

    def read(self, job_id: str, run: "Optional[int]" = None, holding: bool = False) -> "Any":
        """Return the record of a run, by default the newest; None if there is none.

        `holding` says that the caller has the job's lock, so nobody else is starting it.
        """
        directory = self.job_dir(job_id)
        if os.path.islink(directory) or run is not None and os.path.islink(self.run_dir(job_id, run)):
            return None  # we make none
        if run is None:
            return self.read_newest(job_id, directory, holding)
        return self.read_run(job_id, directory, run, holding)

    def read_all(self, job_id: str, directory: str, holding: bool = False) -> "List[Any]":
        """Return the records of all runs of a job, the oldest first."""
        records = [self.read(job_id, run, holding) for run in self.runs(directory)]
        return [record for record in records if record is not None]

    def again(self, record: "JobRecord", holding: bool = False) -> "Any":
        """Return the record of the same run as it is now; None if that was removed.

        Another run may have its number by now, but not its cookie.
        """
        found = self.read(record.self_id, record.run, holding)
        return found if found is not None and found.cookie in (record.cookie, None) else None

    def unreadable(self, job_id: str, directory: str, error: OSError) -> "Any":
        """Return a record that says so of a job whose directory may not be read; None if that is not ours."""
        if os.stat(directory).st_uid != os.stat(self.path).st_uid:
            return None  # such as lost+found
        return self.record_class.trusted(dict(
            self.blank, self_id=job_id, dirname=directory.rpartition(SEP)[2], status=None,
            error="its directory cannot be read: %s" % error.strerror))

    def read_newest(self, job_id: str, directory: str, holding: bool = False) -> "Any":
        runs, before = self.runs(directory), None
        while runs != before:  # while we looked, a new run may have taken the place of the old ones
            for run in reversed(runs):
                record = self.read_run(job_id, directory, run, holding)
                if record is not None:
                    return record
            runs, before = self.runs(directory), runs
        return None

    def read_run(self, job_id: str, directory: str, run: int, holding: bool = False) -> "Any":
        logdir = "%s%s%06d" % (directory, SEP, run)
        state = self.state(logdir)
        if state is None:
            return None
        if state.get("status") not in ENDED:
            state = self.resolve(state, logdir, holding)
            if state is None:
                return None
        return self.record_of(state, job_id, run, logdir)

    def record_of(self, state: "Dict[str, Any]", job_id: str, run: int, logdir: str) -> "Any":
        """Return the record of a run: what its journal says, and what follows from its place."""
        if state.get("left_behind") and state["status"] in ENDED:
            here = state.get("boot_id") == platform.boot_id()
            left = platform.remaining(Run(state), dict(state["left_behind"])) if here else {}
            state["left_behind"] = [[pid, left[pid]] for pid in sorted(left)] or None

        record = self.record_class.trusted(self.blank)
        stdout_path = logdir + SEP + STDOUT_LOG
        dict.update(record, state, self_id=job_id, run=run, dirname=logdir.split(SEP)[-2], logdir=logdir,
                    logfile=stdout_path, stdout_path=stdout_path, stderr_path=logdir + SEP + STDERR_LOG)
        return record

    def state(self, logdir: str, running: bool = False) -> "Optional[Dict[str, Any]]":
        """Return what a run's journal says (see fold); None if it says nothing yet, so that nothing was started."""
        path = logdir + SEP + JOURNAL
        try:
            journal = read_journal(path)
        except OSError as error:
            if error.errno in TOO_FEW:
                raise
            why = "its journal cannot be read: %s" % error.strerror
            if error.errno not in NOT_OURS:
                return {"status": None, "error": why}
            return {"error": why} if is_our_lock(logdir) else None

        if not journal or b"\n" not in journal:
            if not is_our_lock(logdir) and (journal is None or os.path.isfile(path)):
                return None
            journal = b"\n"  # a monitor was here; what it wrote is gone
        return self.judge(journal, path, running)

    def judge(self, journal: bytes, path: str, running: bool = False) -> "Dict[str, Any]":
        """Return what a journal says (see fold), less what none of ours says."""
        state = fold(journal, running)
        wrong = self.take_out_damage(state)

        damage = ""
        if (state.get("format") or 1) > FORMAT:
            damage = "was written by a newer nodejobs (format %d); use that one" % state["format"]
        elif state.pop("damaged", 0) or wrong or "status" not in state or "command" not in state:
            damage = "is damaged; see " + path
        if damage:
            before = state["error"] + "; " if state.get("error") else ""
            state["error"] = "%sits journal %s" % (before, damage)
        return state

    def take_out_damage(self, state: "Dict[str, Any]") -> bool:
        """Take out of a state what no journal of ours says; tell whether anything was wrong."""
        wrong: "List[str]" = []
        if not self.kinds.issuperset(zip(state, map(type, state.values()))):  # quick, and true of nearly all
            fields = self.record_class.fields
            wrong = [key for key, value in state.items() if key not in fields and not is_shallow(value)
                     or key in fields and (fields[key].derived or not fields[key].accepts(value))]

        for key in self.fits.keys() & state.keys():
            if key not in wrong and state[key] is not None and not self.fits[key](state[key]):
                wrong.append(key)

        if state.get("status", STARTING) is None:
            wrong.append("status")
        for key in wrong:
            del state[key]

        if "last_pid" in wrong:
            state["last_pid"] = None  # there was one, so it does not count as a run without a pid (rule 4)
        for key in "after", "after_ok":
            if key in wrong:
                state[key] = []  # it may never be started: nobody knows what it was to wait for
        return bool(wrong) or contradicts_itself(state)

    def resolve(self, state: "Dict[str, Any]", logdir: str, holding: bool) -> "Optional[Dict[str, Any]]":
        """Find out about a run whose journal tells no end: is it active, or has it been left without one?"""
        seen = self.look_at(state, logdir, holding)
        again = self.state(logdir, seen.active)
        # If the journal has not changed after the locks were seen free, nobody is left who could write to it: the
        # job's lock is dropped after the run's is taken and the start's outcome is written, the run's after the end is.
        while again != state and again is not None and again.get("status") not in ENDED:
            state = again
            seen = self.look_at(state, logdir, holding)
            again = self.state(logdir, seen.active)
        if again is None or again.get("status") in ENDED:
            return again

        status, error = verdict(state, seen)
        if error is not None:
            state.setdefault("error", error)
        state["status"] = status
        if status == QUEUED:
            return state
        state["monitored"] = seen.monitored if status in ACTIVE else None
        if status in ACTIVE and state.get("boot_id") == platform.boot_id():
            if state.get("started_clock") is not None:
                took = time.monotonic() - state["started_clock"]
                state["duration"] = round(took, 3) if took >= 0 else None  # it cannot have begun in the future
            if state.get("last_pid"):
                state["suspended"] = platform.is_suspended(state["last_pid"])
        if state.get("max_log") and "dropped_bytes" not in state:
            oldest = [older_logs(logdir + SEP + name)[:1] for name in (STDOUT_LOG, STDERR_LOG)]
            state["dropped_bytes"] = sum([offset for logs in oldest for offset, _ in logs])
        return state

    def look_at(self, state: "Dict[str, Any]", logdir: str, holding: bool) -> "Signs":
        """See which signs of life there are of a run whose journal tells no end; `holding`: the job's lock is ours."""
        seen = Signs()
        if state.get("status") == QUEUED:
            return seen
        seen.same_boot = state.get("boot_id") == platform.boot_id()
        try:
            # In this order (see resolve).
            seen.starting = (not holding and state.get("status") == STARTING
                             and platform.is_job_locked(os.path.dirname(logdir) + SEP + LOCK))
            seen.monitored = platform.is_monitored(logdir + SEP + LOCK)
        except OSError as error:
            if error.errno in TOO_FEW:
                raise
            # Locks are the owner's. Others go by the processes, the monitor's too: it may be about to write the end.
            seen.why = "whether it runs cannot be known: its lock cannot be read: %s" % error.strerror
            seen.monitored = False if error.errno in NOT_OURS else None
            seen.lives = seen.monitored is None and seen.same_boot and (
                platform.start_time(state.get("monitor_pid") or 0) == state.get("monitor_start", -1))
        if not seen.monitored:
            seen.lives = seen.lives or self.is_alive(state)
        seen.active = bool(seen.monitored or seen.starting or seen.monitored is None and seen.lives)
        return seen

    def is_alive(self, state: "Dict[str, Any]") -> bool:
        """Tell whether the command's own process lives: pid, start time, boot and cookie must agree (rule 7)."""
        if None in (state.get("last_pid"), state.get("pid_start")) or state.get("boot_id") != platform.boot_id():
            return False
        return platform.is_command(Run(state))

    def new_run(self, lock: JobLock, entry: "Dict[str, Any]", prepare: "Any" = None) -> int:
        """Make a new run of the locked job, with its journal's first line; return its number.

        Of what is queued, `prepare` is called with the number before there is a journal, that is, before there is such
        a run.
        """
        run = max([int(name) for name in os.listdir(lock.path) if is_run_name(name)] or [0]) + 1  # links count, too
        entry = dict(entry, self_id=lock.job_id, run=run, last_update=iso_time(time.time()))
        line = to_json(entry).encode() + b"\n"
        if len(line) > JOURNAL_BYTES - 65536:  # the rest is for the lines that follow
            raise SchemaError("command and fields are too long: more than %d bytes as JSON" % JOURNAL_BYTES)
        directory = self.run_dir(lock.job_id, run)
        os.mkdir(directory, 0o755)
        try:
            if prepare is not None:
                prepare(run)
            write_new(directory + SEP + JOURNAL, 0o644, line, lasting=prepare is not None)
        except BaseException:
            if prepare is not None:
                self.discard(directory)  # it leaves its queue: nobody would start it
            raise
        return run

    def append(self, job_id: str, run: int, entry: "Dict[str, Any]", cookie: "Optional[str]") -> None:
        """Append a line to the journal of the run that has this cookie.

        Raises FileNotFoundError if that run was removed, also where a new run has its number now. Of a damaged journal
        the cookie may be None: that run can be ended all the same.
        """
        fd = platform.open(self.run_dir(job_id, run) + SEP + JOURNAL, os.O_RDWR | os.O_APPEND)
        try:
            if cookie is not None and b'"cookie":%s' % to_json(cookie).encode() not in read_whole(fd):
                raise FileNotFoundError(errno.ENOENT, "it was removed", self.run_dir(job_id, run))
            append_line(fd, dict(entry, last_update=iso_time(time.time())), 0)
        finally:
            os.close(fd)

    def aside(self, kind: str) -> str:
        """Return a new path in the store, of what is being made or removed."""
        return "%s%s.%s-%s" % (self.path, SEP, kind, os.urandom(6).hex())

    def discard(self, path: str, is_ours: "Any" = is_our_file) -> "List[str]":
        """Delete the directory of a run; return the paths that stay, as we did not make them.

        Where there are none, it vanishes whole and at once for readers.
        """
        foreign = survey(path, is_ours)[1]
        if foreign:
            clear(path, is_ours)
        else:
            hidden = self.aside("removed")
            platform.move(path, hidden)
            self.sweep(hidden)
        return foreign

    def discard_job(self, path: str) -> "List[str]":
        """Delete the directory of a job with all its runs, the oldest first; return the paths that stay."""
        runs = ["%s%s%06d" % (path, SEP, run) for run in self.runs(path)]
        inside = {run: self.discard(run) for run in runs if is_our_run(run)}
        stays = self.discard(path, LOCK.__eq__)
        return [foreign for each in stays for foreign in inside.get(each) or [each]]

    def sweep(self, *paths: str) -> None:
        """Delete what was taken aside to be removed, or was left by somebody killed as he made a job; by default all.

        What cannot be deleted now is left for the next sweep: Windows keeps what is open somewhere, NFS and FUSE keep it
        under another name.
        """
        for path in paths or [self.path + SEP + name for name in os.listdir(self.path)]:
            kind, _, number = os.path.basename(path).partition("-")
            if kind in (".removed", ".new") and len(number) == 12 and not number.strip("0123456789abcdef"):
                try:
                    # Who makes a job just now needs it: without its lock, it would never be known as ours.
                    if paths or kind != ".new" or time.time() - os.lstat(path).st_mtime > 60:
                        clear(path)
                except OSError:
                    pass  # somebody else may be deleting it too


# ------ 5. monitor ------
#
#   launcher            posix_spawn     a bare interpreter, python3 -I -S, which runs monitor_boot
#     └─ intermediate   fork, exit      so that the host program keeps no child, hence no zombie
#          └─ monitor   own session     takes the run's lock, forks the command, waits, writes the end; with
#               │                       max_log, it moves the output from pipes to the logs
#               └─ command
#
# The code objects of Monitor, and of all that it needs (see `pack`), are sent through the monitor's stdin. So the
# monitor is ordinary code of this file, it is not compiled again at every start, and it never has to find this file.
# It sees `sys`, `os` (there: posix), `time`, `signal`, `platform`, the classes, functions and plain constants that
# `pack` has found in this room and those above it; and no other module but what it imports itself.

ORDER, REPORT, JOB_LOCK = 0, 1, 2  # a monitor's descriptors: what to do, where to say how the start went; rule 1


def let_go(fd: int) -> None:
    """Point a descriptor at /dev/null: were it only closed, the next file opened would get its number."""
    try:
        null = os.open(NULL, os.O_RDWR)
        os.dup2(null, fd)
        os.close(null)
    except OSError:
        os.close(fd)


def report(text: str) -> None:
    """Tell the launcher, once, how the start went: an error number and words; "" is success. It may be gone."""
    try:
        os.write(REPORT, b"+" + text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass
    let_go(REPORT)


def open_log(path: bytes) -> int:
    return platform.open(path + b".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class CappedLog:
    """A stream of output with a cap: a pipe, and the two files that hold the newest of what comes through it.

    When one file is full, it is set aside under a name with its offset in the stream, for a new one; and what was set
    aside before is dropped. So at least half the cap is kept.
    """

    def __init__(self, path: bytes, fd: int, cap: int) -> None:
        self.path, self.fd, self.full = path, fd, cap // 2
        self.offset = self.dropped = 0
        self.aside, self.aside_size = b"", 0
        self.pipe, self.writing = os.pipe()

    def empty_pipe(self) -> bool:
        """Move what is in the pipe to the files; return False where nobody is left who could write to it."""
        part = os.read(self.pipe, 65536)
        ended, is_full = not part, False
        while part:
            try:
                if is_full:
                    self.set_aside()
                part = part[self.write(part):]
                is_full = False
            except OSError as error:
                # If the disk is full, what is old makes room for what is new, once. What the disk refuses then is
                # dropped, as it is by a command that writes by itself and goes on.
                if is_full or not self.aside_size or error.errno not in SHORTAGES:
                    self.dropped += len(part)
                    break
                is_full = True
        return not ended

    def write(self, part: bytes) -> int:
        """Write output to the newest file, as far as that has room; return how many bytes."""
        if self.fd < 0:
            self.fd = open_log(self.path)
        if os.fstat(self.fd).st_size >= self.full:
            self.set_aside()
        room = self.full - os.fstat(self.fd).st_size  # somebody may have cut it
        return os.write(self.fd, part[:room] if room > 0 else part)

    def set_aside(self) -> None:
        """Begin a new file. Where the old one cannot be renamed, it grows on: on Windows, a reader has it open."""
        size = os.fstat(self.fd).st_size
        aside = b"%s.%015d.log" % (self.path, self.offset)
        try:
            os.replace(self.path + b".log", aside)
        except OSError:
            pass
        else:
            self.drop_aside(aside)
            self.aside, self.aside_size = aside, size
            self.offset += size
        os.close(self.fd)
        self.fd = -1
        self.fd = open_log(self.path)

    def drop_aside(self, new: bytes) -> None:
        """Delete the file that was set aside before a new one, which readers need to know where the newest begins."""
        try:
            if self.aside != new:
                os.unlink(self.aside)
            self.dropped += self.aside_size
        except OSError:
            pass  # there is none; or on Windows, a reader has it open


def start_next(order: "Dict[str, Any]") -> None:
    """Where others wait in this store, have what is due started: by a process that has all of nodejobs in it.

    It finds that in the queue's `starter`, with the Python and the stub to execute it by.
    """
    try:
        names = os.listdir(order["queue"])
        others = [name for name in names if name[:9].isdigit() and order["cookie"].encode() not in name]
        if any([b".started." not in name for name in others]):
            starter = platform.open(order["queue"] + b"/starter", os.O_RDONLY, 0)
            python, stub = os.read(starter, 4096).split(b"\n")[:2]
            os.lseek(starter, len(python) + len(stub) + 2, 0)
            platform.start_apart([python, b"-I", b"-S", b"-c", stub, order["store"], b"nodejobs-starter"], starter)
    except (OSError, ValueError):
        pass  # nothing waits; or whoever asks next starts it


class Monitor:
    """The parent of one command, in a process of its own. Its `order` says what to execute, and how."""

    def __init__(self, order: "Dict[str, Any]") -> None:
        self.order, self.path = order, order["directory"]
        self.logs: "List[CappedLog]" = []  # with max_log
        self.pipes: "Dict[int, CappedLog]" = {}  # those of them to which somebody may still write
        self.held: "Any" = None  # what await_child needs of the command, until that has ended
        self.timed_out = False

    def main(self) -> None:
        """Be the monitor, from the first moment to the last; never returns."""
        try:
            platform.begin_monitor()
            self.take_over()
            failing = self.start_command()
            if failing:
                self.write_failed_start(failing)
            let_go(JOB_LOCK)  # rule 1: the outcome of the start is in the journal
            report("")
            if not failing:
                self.accompany()
            start_next(self.order)
            # What has left its session and scrubbed its environment is found by stop as long as we are its parent.
            while self.left_behind() or self.pipes:
                self.wait()
            os._exit(0)
        except BaseException as error:
            number = 12 if isinstance(error, MemoryError) else getattr(error, "errno", 0) or 0  # ENOMEM
            path = getattr(error, "filename", None)
            if isinstance(path, bytes):
                error.filename = path.decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
            report("%d cannot start the command: %s" % (number, error))
        os._exit(1)  # without start_next: what has failed for want of something would be tried again at once, for ever

    # The start

    def take_over(self) -> None:
        """Take the run's lock, and see that the run is still to be started."""
        if self.order["umask"] is not None:
            os.umask(self.order["umask"])
        self.lock = platform.take_run_lock(self.path + b"/lock")  # rule 3
        self.journal = platform.open(self.path + b"/journal.jsonl", os.O_RDWR | os.O_APPEND)
        for line in read_whole(self.journal).split(b"\n")[:-1]:
            if line[:12] == b'{"last_pid":' and line[-1:] == b"}":
                raise OSError(0, "another monitor has done so")  # we were so slow that it was queued again
        platform.adopt_orphans(self.order["cookie"].encode())

    def open_outputs(self) -> "List[int]":
        """Return what the command shall have as its stdout and, unless that is the same, as its stderr."""
        paths = [self.path + b"/stdout", self.path + b"/stderr"]
        outputs = [open_log(path) for path in paths]
        if self.order["merge"]:
            os.close(outputs.pop())
        if self.order["max_log"] is not None:
            cap = self.order["max_log"] // len(outputs)
            self.logs = [CappedLog(path, fd, cap) for path, fd in zip(paths, outputs)]
            self.pipes = {log.pipe: log for log in self.logs}
            outputs = [log.writing for log in self.logs]
        return outputs

    def start_command(self) -> str:
        """Make the command's process, and let it execute when its pid is in the journal (rule 4).

        Return "", or why it cannot execute: an error number, a blank and words.
        """
        outputs = self.open_outputs()
        self.held, failing = platform.hold_command(self.order, outputs[0], outputs[-1])
        for fd in outputs:
            os.close(fd)
        if failing:
            return failing

        self.began = time.monotonic()
        pid, me, now = self.held[0], os.getpid(), iso_time(time.time())
        begun = {"last_pid": pid, "pid_start": platform.start_time(pid), "pid_mark": platform.mark(pid),
                 "monitor_pid": me, "monitor_start": platform.start_time(me),
                 "started_at": now, "started_clock": self.began, "last_update": now, **self.order["noted"]}
        self.run = Run(dict(begun, cookie=self.order["cookie"]))
        try:
            append_line(self.journal, begun, 0)
        except OSError:
            platform.forbid(self.held)
            raise
        failing = self.why_forbidden()
        if failing:
            platform.forbid(self.held)
            return failing

        if self.order["launch"]:
            try:
                os.unlink(self.order["launch"])
            except OSError:
                pass  # it goes with the ticket
        failing = platform.permit(self.held)
        if not failing:
            self.note({"status": RUNNING}, END_ROOM)  # where that fails, the held lock and the pid say the same
        return failing

    def why_forbidden(self) -> str:
        """Return why the command must not execute, although its pid is in the journal; "" if it may."""
        try:
            if self.order["launch"]:
                os.fsync(self.journal)  # or it could be queued again after a power cut, and run twice
            if b'\n{"status":"failed_start"' not in read_whole(self.journal):
                return ""
            return "0 cannot start the command: its launcher has given up waiting for it"
        except OSError as error:
            return "%d cannot start the command: %s" % (error.errno or 0, error.strerror)

    def write_failed_start(self, failing: str) -> None:
        self.held = None
        number, _, text = failing.partition(" ")
        end = {"errno": int(number) or None, "error": text, "ended_at": iso_time(time.time())}
        self.write_end(FAILED_START, end, failing)

    # Its end

    def accompany(self) -> None:
        """Wait for the end of the command, and write it down."""
        let_go(ORDER)
        os.chdir("/")  # so as not to keep the launcher's file system busy
        _, exit_code, killer = self.wait_for_command()
        took = time.monotonic() - self.began
        cpu_seconds, max_rss_kb = platform.usage()
        end: "Dict[str, Any]" = {"exit_code": exit_code, "signal": signal_name(killer) if killer else None,
                                 "ended_at": iso_time(time.time()), "duration": round(took, 3),
                                 "cpu_seconds": round(cpu_seconds, 3), "max_rss_kb": max_rss_kb}
        if self.logs:
            for _ in range(16):  # what it has written is in the pipes, and no pipe holds more than 1 MiB
                self.wait(0.0)
            end["dropped_bytes"] = sum([log.dropped for log in self.logs])

        stopped = self.was_asked_to_stop()
        while stopped and self.left_behind():
            self.wait()  # nothing is called stopped while anything of it still runs
        left = self.left_behind()
        if left:
            end["left_behind"] = left
        outcome, end["error"] = self.outcome(exit_code, killer, took, stopped)
        self.write_end(outcome, end, "")

    def wait_for_command(self) -> "Ended":
        """Wait for the end of the command, and end its tree when it is out of time; return how it ended."""
        timeout = self.order["timeout"]
        deadline = float("inf") if timeout is None else self.began + timeout
        result: "Any" = None
        stopper = 0
        while not result or stopper > 0:
            ended = self.wait(deadline)
            if ended and ended[0] == self.run.pid:
                result, self.held = ended, None
            elif ended and ended[0] == stopper:
                stopper = 0
            if not result and time.monotonic() >= deadline:
                deadline, self.timed_out = float("inf"), True
                stopper = self.end_tree()
        return result  # type: ignore[no-any-return]

    def end_tree(self) -> int:
        """End all of the run; return the pid of the process that does it, or less than 1 if it is done.

        A process of its own, so that we go on reaping: what forks and ends all the time would use up the pids.
        """
        try:
            stopper = os.fork()
        except (OSError, AttributeError):
            stopper = -1  # so we do it ourselves
        if stopper <= 0:
            try:
                # Its name is in quotes, so that `pack` finds it, and all that it needs, only where there is a timeout.
                getattr(platform, "end_trees")([(self.run, {})], signal.SIGTERM, self.order["grace"])
            finally:
                if stopper == 0:
                    os._exit(0)
        return stopper

    def wait(self, deadline: float = float("inf")) -> "Optional[Ended]":
        """Wait for the end of a child, for output, or for the deadline; return how a child has ended.

        Output is moved to its logs: while we wait for anything at all, no pipe may be full.
        """
        ended, ready = platform.await_child(self.held, list(self.pipes), deadline)
        for pipe in ready:
            if not self.pipes[pipe].empty_pipe():
                os.close(pipe)
                del self.pipes[pipe]
        return ended

    def left_behind(self) -> "List[List[Any]]":
        """Return [pid, start time] of the run's processes that we have adopted; monitors of other runs are none."""
        pairs: "List[List[Any]]" = []
        for _ in range(20):  # what forks and ends quickly may be gone before we have its start time, its child be there
            pairs = [[pid, platform.start_time(pid)] for pid in platform.adopted()]
            if None not in [start for _, start in pairs]:
                break
        return [pair for pair in pairs if platform.cookie_of(pair[0]) in (None, b"", self.order["cookie"].encode())]

    def was_asked_to_stop(self) -> bool:
        """Tell whether the journal has a stop request."""
        for _ in range(3):
            try:
                return b'\n{"status":"stopping"' in read_whole(self.journal)
            except OSError:
                pass  # a disk that fails once must not cost us the end
        return False

    def outcome(self, exit_code: "Optional[int]", killer: "Optional[int]", took: float, stopped: bool,
                ) -> "Tuple[str, Optional[str]]":
        """Return the status of a run whose command has ended so, and the error."""
        if self.timed_out:
            return FAILED, "timeout: it still ran after %g s" % self.order["timeout"]
        if stopped:
            return STOPPED, None
        if exit_code == 0:
            return FINISHED, None
        if exit_code in (126, 127) and took < self.order["shell_startsecs"]:
            return FAILED_START, "the shell could not execute it (exit code %d); see stderr.log" % exit_code
        return FAILED, "killed by " + signal_name(killer) if killer else "exit code %s" % exit_code

    def note(self, entry: "Dict[str, Any]", room: int = 0) -> bool:
        """Append a line to the journal; return False if the disk refuses it."""
        try:
            append_line(self.journal, dict(entry, last_update=iso_time(time.time())), room)
            return True
        except OSError:
            return False

    def write_end(self, outcome: str, end: "Dict[str, Any]", told: str) -> None:
        """Write the two lines of the end (rule 6), and free the run's lock.

        Where the disk refuses them: free the lock, so that nobody takes for running what has ended, tell the launcher
        `told` if it still waits, and try again for as long as that is of use to somebody.
        """
        last, pause = time.monotonic() + RETRY_SECONDS, 0.125
        while not self.note(dict(end, outcome=outcome)):
            let_go(self.lock)
            report(told)
            let_go(JOB_LOCK)
            next_try = time.monotonic() + pause
            while time.monotonic() < next_try:
                self.wait(next_try)
            pause = min(2 * pause, 32.0)
            if next_try > last:
                return
        try:
            os.fsync(self.journal)
        except OSError:
            pass  # the file system cannot; there is nothing safer to do
        platform.sync_directories(self.path)  # a new file is safe when its directory is too
        self.note({"status": outcome})  # where that fails, the facts say the same, once the lock is free
        let_go(self.lock)


def monitor_boot() -> None:
    """Run first in the bare interpreter: take in the rest of the payload and become the monitor."""
    import marshal
    scope = globals()
    packed, order = marshal.loads(sys.stdin.buffer.read(int(sys.argv[1])))
    parts = marshal.loads(packed)

    function: "Any" = type(lambda: 0)
    for part in parts.values():
        part.update({name: function(value[0], scope, name, value[1])
                     for name, value in part.items() if isinstance(value, list)})
    scope.update(parts.pop(""))

    scope.update({name: type(name, (), part) for name, part in parts.items()})
    scope["platform"] = scope["Platform"]()
    scope["Monitor"](order).main()


CODE = type(monitor_boot.__code__)  # of a function of ours: PyPy's own ones have another kind
VALUES = (bool, int, float, str, bytes, tuple)
ROOMS = dict(globals())  # what a monitor may use of this file: this room and those above it
packed: "Dict[Any, bytes]" = {}


def names_in(code: "Any") -> "Set[str]":
    """Return the names of all globals and attributes that some code uses, and of what it imports."""
    names = set(code.co_names)
    for part in code.co_consts:
        if isinstance(part, CODE):  # a function within the function
            names |= names_in(part)
    return names


def pack(system: "Type[Posix]", timeout: bool) -> bytes:
    """Return what a monitor needs of this file, marshalled: {class: {name: value}}; the class "" is the file itself.

    The value of a function is a list, of its code and the defaults of its arguments.

    It is computed once, from the names in the code. What is an attribute of something else there may have the name of
    a function of ours: so a little more travels than is needed.
    """
    import marshal
    if (system, timeout) in packed:
        return packed[system, timeout]
    scopes = {"": ROOMS}
    for name, kind in (("Monitor", Monitor), ("CappedLog", CappedLog), ("Run", Run), ("Platform", system)):
        scopes[name] = {attribute: getattr(kind, attribute) for attribute in dir(kind)}
    parts: "Dict[str, Dict[str, Any]]" = {name: {} for name in scopes}
    names = ["__init__", "main", "end_trees"][:3 if timeout else 2]
    found = set(names)
    for name in names:  # which grows
        for scope, part in parts.items():
            value: "Any" = scopes[scope].get(name)
            if isinstance(value, VALUES):
                part[name] = value
            elif isinstance(getattr(value, "__code__", None), CODE):
                part[name] = [value.__code__, value.__defaults__]
                new = names_in(value.__code__) - found
                found |= new
                names += new
    packed[system, timeout] = marshal.dumps(parts)
    return packed[system, timeout]


STARTER = ("import sys,marshal;sys.implementation.hexversion==%d or sys.exit(3);scope={'__name__':'nodejobs'};"
           "exec(marshal.loads(open(0,'rb',closefd=False).read()),scope);jobs=scope['Jobs'](sys.argv[1]);"
           "jobs.queue.has_starter=True;jobs.queue.patience=%f;jobs.start_due()" % (
               sys.implementation.hexversion, RETRY_SECONDS))
OURSELVES = sys._getframe().f_code  # all of this file, wherever it was read from


def starter_head(python: str) -> bytes:
    """Return what start_next has to find before our code: a Python, and how that executes it."""
    return b"%s\n%s\n" % (os.fsencode(python), STARTER.encode())


def monitor_program(python: str, name: str, order: "Dict[str, Any]") -> "Tuple[List[bytes], bytes]":
    """Return how a monitor is executed, and what it has to read then; its `name` is for those who look at `ps`."""
    import marshal
    rest = marshal.dumps((pack(type(platform), order["timeout"] is not None), order))
    boot = marshal.dumps(monitor_boot.__code__)
    # Code objects are of one version of Python; the program at that path may have been upgraded since we started.
    # (sys.hexversion would not tell PyPy from the CPython whose language it speaks.) Whatever goes wrong there, no
    # traceback may be written to descriptor 2, the job's lock.
    stub = ("import sys,marshal,time,_signal as signal,%s as os;sys.stderr=None;"
            "sys.implementation.hexversion==%d or os._exit(3);exec(marshal.loads(sys.stdin.buffer.read(%d)))"
            % (platform.monitor_os, sys.implementation.hexversion, len(boot)))
    argv = [os.fsencode(word) for word in (python, "-I", "-S", "-c", stub, str(len(rest)), "nodejobs-monitor")]
    return [*argv, name.encode("utf-8", "surrogateescape")], boot + rest


# ------ 6. queue ------
#
# All that waits is in DB/.queue: a ticket for each run that waits or fills a slot, NUMBER-COOKIE.KIND.QUEUE, which holds
# the name of the run's directory. The numbers are the order. A run that only waits for others is in the queue "-".
#
#     dependent   it waits for other runs to end
#     waiting     it waits for a slot of its queue
#     taken       it has its slot, and somebody is about to start it, or was killed before he had
#     started     its command was started; it fills its slot until the run has ended
#
# The lock is for looking and for giving tickets other names; nothing is started under it. A ticket is marked as taken,
# the lock is dropped, and then the run is started under its job's lock, if it is still queued there. So what is taken and
# queued still is due, and fills its slot all the same: if its starter was killed, the next one who looks starts it.
#
# Nobody waits for the lock if he only offers to start what is due, and nobody ever waits for the lock of a job. Yet no
# start is lost:
# - Whoever makes something due has had the lock after that, for he has queued, moved or stopped a run, or has set how the
#   queue stands; or else he waits for it, as does the starter of a monitor that has ended. If he finds it held when he
#   looks what is due, somebody else took it later, and sees what he has done.
# - Whoever finds the lock of the job held leaves its queue to the one who holds it: as he is starting, stopping or
#   removing a run, he looks what is due as soon as he is done.
# - Whoever has started something looks again, until there is nothing more to start.
# Only what was killed does none of this. What that would have started waits for the next end of a job, or the next call.

DEPENDENT, WAITING, TAKEN, STARTED = "dependent", "waiting", "taken", "started"


def ticket_name(number: int, cookie: str, kind: str, queue: "Optional[str]") -> str:
    return "%09d-%s.%s.%s" % (number, cookie, kind, "-" if queue is None else escape_id(queue))


class Ticket:
    """A run's place in its queue, or in none (None), as the name of its file says."""

    logdir = ""  # the run's directory, once the file was read

    def __init__(self, name: str) -> None:
        self.name, self.number, self.cookie = name, int(name[:9]), name[10:42]
        self.kind, _, queue = name[43:].partition(".")
        self.queue = unescape_id(queue) if queue not in ("", "-") else None


def check_queue(queue: str, slots: "Any" = None) -> None:
    """Raise SchemaError unless this can be the name of a queue, and a number of slots, or None."""
    try:
        name = escape_id(queue)
    except SchemaError as error:
        raise SchemaError("the name of a queue is like a job id; %s" % error) from None
    if len(name) > QUEUE_BYTES:
        raise SchemaError("the name of the queue is too long: %d bytes as a file name, %d at most: %.40r..."
                          % (len(name), QUEUE_BYTES, queue))
    if ":" in queue:
        raise SchemaError("%r is no queue: its name holds no colon, after which come the slots, a number" % queue)
    check_count("slots", slots, "jobs", 1, MOST_SLOTS)


class Queue:
    """The runs of a store that wait for their turn, or for others to end."""

    patience = LOCK_SECONDS  # seconds to wait for the lock; a starter has more (see STARTER)
    has_starter = False      # whether we have seen to it that the starter is there

    def __init__(self, store: Store) -> None:
        self.store, self.path = store, store.path + SEP + QUEUE

    def lock(self, wait: bool = True) -> Lock:
        """Return the lock of all queues; if it is held and we shall not wait, its `fd` becomes -1."""
        make_directory(self.path, 0o755)
        return Lock(self.path, "the queue", self.patience if wait else 0.0)

    def tickets(self) -> "List[Ticket]":
        """Return the tickets of all queues, in their order."""
        try:
            names = sorted(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        tickets = [Ticket(name) for name in names if name[:9].isdecimal()]
        return [ticket for ticket in tickets if ticket.kind in (DEPENDENT, WAITING, TAKEN, STARTED)]

    def holder(self, ticket: Ticket) -> "Any":
        """Return the record of a ticket's run; None if there is none, or none any more."""
        try:
            text = (read_journal(self.path + SEP + ticket.name) or b"").decode("ascii", "replace")
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            return None
        name, _, run = text.strip().rpartition("/")
        job_id = unescape_id(name) if name and is_run_name(run) else None
        if job_id is None:
            return None
        ticket.logdir = self.store.run_dir(job_id, int(run))
        record = self.store.read(job_id, int(run))
        if record is None or record.cookie is None or (record.cookie, record.queue) == (ticket.cookie, ticket.queue):
            return record
        return None

    def move(self, ticket: Ticket, kind: str, number: int) -> Ticket:
        """Give a ticket another name. The lock is ours."""
        moved = Ticket(ticket_name(number, ticket.cookie, kind, ticket.queue))
        os.rename(self.path + SEP + ticket.name, self.path + SEP + moved.name)
        return moved

    def drop(self, ticket: Ticket) -> None:
        """Take out a run that is over, or of which there is none, with what would have started it. The lock is ours."""
        if ticket.logdir:
            unlink(launch_path(ticket.logdir, ticket.cookie))
        unlink(self.path + SEP + ticket.name)

    def replace(self, name: str, mode: int, content: bytes) -> None:
        """Put a file in the place of the old one, whole and at once. The lock is ours."""
        path = self.path + SEP + name
        unlink(path + ".new")  # whoever was writing it was killed
        write_new(path + ".new", mode, content)
        platform.move(path + ".new", path)

    def keep_starter(self, python: str) -> None:
        """Have the starter there: how it is executed, and all our code. The lock is ours.

        Without it, what is due waits for the next call.
        """
        import marshal
        path = self.path + SEP + STARTER_FILE
        if self.has_starter and os.path.exists(path):
            return
        head, there = starter_head(python), read_file(path)
        try:
            # Not by the bytes: marshal writes the same code in several ways.
            self.has_starter = there.startswith(head) and marshal.loads(there[len(head):]) == OURSELVES
        except (EOFError, ValueError, TypeError):
            pass  # it is damaged
        try:
            if not self.has_starter:
                self.replace(STARTER_FILE, 0o600, head + marshal.dumps(OURSELVES))
        except OSError:
            pass  # a full disk; or, on Windows, somebody reads it

    # How each queue stands: a line in the journal. What is in no line has one slot.

    def states(self, tickets: "List[Ticket]") -> "Dict[Optional[str], QueueRecord]":
        """Return {queue: its slots, whether it is paused, by whom, and what is wrong with the journal}, sorted."""
        path, text, wrong, unreadable = self.path + SEP + JOURNAL, "", None, False
        try:
            text = (read_journal(path) or b"").decode("utf-8", "replace")
        except OSError as error:
            if error.errno in TOO_FEW:
                raise
            wrong, unreadable = "its journal cannot be read: %s; see %s" % (error.strerror, path), True

        states: "Dict[str, QueueRecord]" = {}
        for line in text.splitlines():
            try:
                state = QueueRecord(read_entry(line) or {}, True)
                check_queue(state.queue, state.slots)
                states[state.queue] = state
            except SchemaError:
                wrong = "its journal is damaged; see " + path

        for ticket in tickets:
            if ticket.queue is not None and ticket.queue not in states:
                states[ticket.queue] = QueueRecord(queue=ticket.queue, slots=SLOTS, paused=unreadable)
        for state in states.values():
            state.error = wrong or state.error
        return {queue: states[queue] for queue in sorted(states)}

    def set(self, queue: str, slots: "Optional[int]" = None, paused: "Optional[bool]" = None) -> QueueRecord:
        """Change how a queue stands, or make it; None leaves it as it is. Return how it stands then. The lock is ours."""
        states = self.states(self.tickets())
        before = states.get(queue)
        state = QueueRecord(before or {"queue": queue, "slots": SLOTS, "paused": False}, error=None)
        state.slots = slots or state.slots
        if paused not in (None, state.paused):
            state.update(paused=paused, paused_by=this_process() if paused else None)
        if state != before:
            states[queue] = state
            self.write_states(states.values())
        return QueueRecord(state, running=[], waiting=[])

    def write_states(self, states: "Iterable[QueueRecord]") -> None:
        """Write how the queues stand. The lock is ours."""
        os.close(platform.open(self.path + SEP + JOURNAL, os.O_RDWR | os.O_CREAT))  # it must be a file, if any
        keys = ("queue", "slots", "paused", "paused_by", "error")
        lines = [to_json({key: state[key] for key in keys}) for state in states]
        self.replace(JOURNAL, 0o644, "".join([line + "\n" for line in lines]).encode())

    def queues(self) -> "Dict[str, QueueRecord]":
        """Return {name: how it stands} of all queues."""
        states: "Dict[Any, QueueRecord]" = {}
        before: "Any" = None
        for _ in range(5):  # a ticket may get another name while we look
            tickets = self.tickets()
            names = [ticket.name for ticket in tickets]
            if names == before:
                break
            before, states = names, self.states(tickets)
            for state in states.values():
                state.update(running=[], waiting=[])
            for ticket in tickets:
                record = self.holder(ticket) if ticket.queue is not None else None
                if record is not None and not record.ended:
                    state = states[ticket.queue]
                    (state.waiting if record.status == QUEUED else state.running).append(record.self_id)
        return states

    def tidy(self) -> None:
        """Forget the queues that are as good as new ones."""
        with self.lock():
            tickets = self.tickets()
            states = self.states(tickets)
            used = {ticket.queue for ticket in tickets}
            kept = [state for queue, state in states.items() if queue in used or state.paused or state.slots != SLOTS]
            if len(kept) < len(states):
                self.write_states(kept)

    def place(self, records: "Iterable[Any]") -> None:
        """Fill in the position of what is queued, and what it waits for."""
        places: "Dict[str, int]" = {}
        for record in records:
            if record.status != QUEUED:
                continue
            for _ in range(3):  # a listing may miss what gets another name meanwhile
                if record.cookie not in places:
                    places = self.places()
            if record.cookie in places:
                record["position"] = places[record.cookie] if record.queue is not None else None
            elif getattr(self.store.again(record), "status", None) == QUEUED:
                record["error"] = record.error or self.why_lost()
            record["waits_for"] = [job_id for job_id, other, _ in self.needs(record)
                                   if other is not None and not other.ended]

    def places(self) -> "Dict[str, int]":
        """Return {cookie: how many of its queue wait before it, and it}."""
        waiting: "Dict[Any, int]" = {}
        places = {}
        for ticket in self.tickets():
            places[ticket.cookie] = waiting.get(ticket.queue, 0) + 1
            waits = ticket.kind in (DEPENDENT, WAITING)
            if ticket.kind == TAKEN:  # it may have been started just now
                record = self.holder(ticket)
                waits = record is not None and record.status == QUEUED
            if waits:
                waiting[ticket.queue] = places[ticket.cookie]
        return places

    def why_lost(self) -> str:
        """Say why a run that is queued waits for nothing."""
        old = self.store.path + SEP + OLD_QUEUES
        if os.path.lexists(old):
            return "nodejobs 1.0 has queued it, in %s, from which this version starts nothing; stop it, and run it again" % old
        return "its place in %s is gone; stop it, and run it again" % self.path

    # Into the queue and out of it

    def add(self, lock: JobLock, entry: "Dict[str, Any]", launch: "Dict[str, Any]", slots: "Optional[int]",
            first: bool, python: str) -> int:
        """Queue a new run of a locked job; return its number."""
        import marshal
        queue, cookie = entry["queue"], entry["cookie"]
        with self.lock():
            self.keep_starter(python)
            if queue is not None:
                self.set(queue, slots)
            numbers = [ticket.number for ticket in self.tickets()] or [500000000]  # with room both ways
            ticket = Ticket(ticket_name(numbers[0] - 1 if first else numbers[-1] + 1, cookie,
                                        DEPENDENT if "after" in entry or "after_ok" in entry else WAITING, queue))

            def prepare(run: int) -> None:
                ticket.logdir = self.store.run_dir(lock.job_id, run)
                name = "/".join(ticket.logdir.split(SEP)[-2:]) + "\n"
                write_new(self.path + SEP + ticket.name, 0o644, name.encode())
                # Version 2 of marshal is the same in all Pythons.
                write_new(launch_path(ticket.logdir, cookie), 0o600, marshal.dumps(launch, 2))
            entry["queued_at"] = iso_time(time.time())  # under the lock: in the order of the tickets
            try:
                return self.store.new_run(lock, entry, prepare)
            except BaseException:
                self.drop(ticket)
                raise

    def first(self, record: "Any") -> None:
        """Move a run to the front of its queue, if it waits there."""
        with self.lock():
            tickets = self.tickets()
            for ticket in tickets:
                if ticket.cookie == record.cookie and ticket.kind in (DEPENDENT, WAITING):
                    self.move(ticket, ticket.kind, tickets[0].number - 1)

    def stop(self, record: "Any", stopped_by: str) -> "Any":
        """End a run if it is queued, unless it has been started meanwhile; return its record."""
        if record is None or record.status != QUEUED:
            return record
        try:
            with JobLock(self.store, record.self_id, create=False):
                record = self.store.again(record, holding=True)
                if record is not None and record.status == QUEUED:
                    record = self.end(record, {"status": STOPPED, "stopped_by": stopped_by,
                                               "error": "it was stopped before it was started"})
                    with self.lock():
                        for ticket in self.tickets():
                            if ticket.cookie == record.cookie:
                                self.drop(ticket)
        except FileNotFoundError:
            record = None
        return record

    def end(self, record: "Any", entry: "Dict[str, Any]") -> "Any":
        """Write the end of a queued run of a locked job, which nobody can start now; return its record."""
        self.store.append(record.self_id, record.run, dict(entry, ended_at=iso_time(time.time())), record.cookie)
        unlink(launch_path(record.logdir, record.cookie))
        return self.store.read(record.self_id, record.run, holding=True)

    # Starting what is due

    def serve(self, begin: "Any", python: str, wait: bool) -> "Dict[str, str]":
        """Start what is due, by `begin`; return what went wrong: {cookie of a run, QUEUE for all, or the store: why}.

        Where the lock is held, `wait` for it, or leave it to the one who has it.
        """
        problems: "Dict[str, str]" = {}
        tried: "Set[str]" = set()
        left: "Set[Optional[str]]" = set()  # the queues of which somebody else is starting the next
        try:
            self.store.check_owner()
            while self.tickets():
                with self.lock(wait) as lock:
                    due = self.take_due(tried, left, problems) if lock.fd >= 0 else []
                    if not due:
                        break
                    self.keep_starter(python)
                for ticket, record in due:
                    tried.add(ticket.cookie)
                    try:
                        if ticket.queue not in left and not self.start(record, begin):
                            left.add(ticket.queue)
                    except (OSError, ImportError, NodejobsError) as error:
                        if getattr(self.store.again(record), "ended", True):
                            continue
                        ours = type(error) in (NodejobsError, ImportError) or getattr(error, "errno", 0) in SHORTAGES
                        problems[QUEUE if ours else ticket.cookie] = "cannot start %s: %s" % (record.self_id, error)
                        if ours:
                            return problems  # it is our own trouble, and no reason to change the order
        except (OSError, ImportError, NodejobsError) as error:
            problems[self.store.path] = str(error)
        return problems

    def take_due(self, tried: "Set[str]", left: "Set[Optional[str]]", problems: "Dict[str, str]",
                 ) -> "List[Tuple[Ticket, Any]]":
        """Mark as taken what is to be started now; return the tickets with their runs' records. The lock is ours."""
        tickets, due = self.tickets(), []
        states = self.states(tickets)
        filled: "Dict[Optional[str], int]" = {}
        for ticket in sorted(tickets, key=lambda ticket: ticket.kind in (DEPENDENT, WAITING)):  # what fills slots first
            state = states.get(ticket.queue)
            paused = state is not None and state.paused
            full = paused or state is not None and filled.get(ticket.queue, 0) >= state.slots
            if ticket.queue in left or full and ticket.kind == WAITING:
                continue
            fills = ticket.kind in (TAKEN, STARTED)  # even if its run cannot be read
            try:
                record = self.holder(ticket)
                if record is None or record.ended:
                    fills = False
                    self.drop(ticket)
                elif not fills:
                    fills = self.take(ticket, record, full)
                    due += [(ticket, record)] * fills
                elif record.last_pid is not None:
                    self.note_start(ticket)
                elif ticket.cookie in tried:
                    fills = False  # what we cannot start holds up nobody
                elif record.status == QUEUED and not paused:
                    due.append((ticket, record))
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
                problems[ticket.cookie] = str(error)
            filled[ticket.queue] = filled.get(ticket.queue, 0) + fills
        return due

    def take(self, ticket: Ticket, record: "Any", full: bool) -> bool:
        """Mark a run that waits as taken if it is to be started, or can never be; tell whether it is."""
        if ticket.kind == DEPENDENT:
            waits, never = self.prospects(record)
            if waits:
                return False
            if not never:  # what it needed may be forgotten before there is room
                self.store.append(record.self_id, record.run, {"due_since": iso_time(time.time())}, record.cookie)
                ticket = self.move(ticket, WAITING, ticket.number)
            full = full and not never
        if full:
            return False
        self.move(ticket, TAKEN, ticket.number)
        return True

    def note_start(self, ticket: Ticket) -> None:
        """Note that a run has got its process; in no queue, it fills no slot."""
        if ticket.queue is None:
            self.drop(ticket)
        elif ticket.kind == TAKEN:
            self.move(ticket, STARTED, ticket.number)

    def needs(self, record: "Any") -> "List[Tuple[str, Any, bool]]":
        """Return the runs for which a queued one waits: their ids, records, None where it is gone, and whether they must
        finish."""
        needs = []
        for runs, must_finish in (record.after, False), (record.after_ok, True):
            for job_id, run, cookie in runs or ():
                other = self.store.read(job_id, run)
                if other is not None and other.cookie not in (cookie, None):
                    other = None  # another one, of the same number
                needs.append((job_id, other, must_finish))
        return needs

    def prospects(self, record: "Any") -> "Tuple[bool, str]":
        """Tell whether a queued run waits for others; and why it can never be started, if so."""
        if record.due_since is not None:
            return False, ""
        if [] in (record.after, record.after_ok):
            return False, "its journal is damaged: nobody knows what it was to wait for"
        needs = self.needs(record)
        for job_id, other, must_finish in needs:
            if must_finish and other is None:
                return False, ("it was to start only if %s finished, and that run was removed before anybody could see it"
                               % job_id)
            if must_finish and other.ended and other.status != FINISHED:
                return False, "it was to start only if %s finished, and that is %s%s" % (
                    job_id, other.status, ": " + other.error[:200] if other.error else "")
        return any(other is not None and not other.ended for _, other, _ in needs), ""

    def start(self, record: "Any", begin: "Any") -> bool:
        """Start a run that was taken, or end it if it can never be started; False if its queue is to be left alone."""
        import marshal
        with JobLock(self.store, record.self_id, create=False, wait=False) as lock:
            if lock.fd < 0:
                return False
            record = self.store.again(record, holding=True)
            if record is None or record.status != QUEUED:
                return True  # somebody has started, stopped or removed it
            state = self.states([]).get(record.queue)
            if state is not None and state.paused:
                return False
            waits, never = self.prospects(record)
            path = launch_path(record.logdir, record.cookie)
            try:
                launch = marshal.loads(read_file(path))
                launch = {key: launch[key] for key in "argv changes environment umask startsecs cwd keep".split()}
            except (EOFError, ValueError, TypeError, KeyError):
                never = never or "what was written down to start it is gone or damaged: " + path
            if never:
                self.end(record, {"status": FAILED_START, "error": never})
            elif not waits:
                begin(record, launch, lock)
            return True


# ------ 7. jobs ------

def to_bytes(what: str, text: str) -> bytes:
    """Return text as the system takes it. Raises SchemaError."""
    try:
        # In a C locale Python 3.6 and PyPy know ASCII only; newer ones take UTF-8 there.
        ascii_only = sys.getfilesystemencoding() == "ascii"
        encoded = text.encode("utf-8", "surrogateescape") if ascii_only else os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise SchemaError("%s holds a NUL, or a character that this system's encoding (%s) lacks: %.60r"
                          % (what, sys.getfilesystemencoding(), text))
    return encoded


def check_command(command: "Command") -> "Tuple[Union[str, List[str]], List[bytes]]":
    """Return a command as the record shows it, and its words, or its shell line, as bytes. Raises SchemaError."""
    if isinstance(command, str):
        shown: "Any" = command
        words = [command]
        if not command.strip():
            raise SchemaError("the command is empty")
    else:
        if not isinstance(command, (list, tuple)) or not command:
            raise SchemaError("a command is a list of words, at least one, or a shell line; not %r" % (command,))
        try:
            shown = words = [os.fsdecode(word) for word in command]
        except TypeError:
            raise SchemaError("every word of a command must be text, not as in %r" % (command,)) from None
        if not words[0]:
            raise SchemaError("the command's first word, the program, is empty")
    return shown, [to_bytes("the command", word) for word in words]


def is_shell(command: "Union[str, List[str]]") -> bool:
    """Tell whether a command is a line for a shell: a string, or a list such as ["bash", "-lc", LINE]."""
    if isinstance(command, str):
        return True
    if os.path.basename(command[0]) not in ("sh", "bash", "dash", "zsh", "ksh", "mksh"):
        return False
    words = iter(command[1:])
    for word in words:
        if word in ("-", "--") or word[:1] not in ("-", "+"):
            break
        if word[:2] != "--" and word[0] == "-" and "c" in word:
            return True
        if word[:2] != "--" and word[-1] in "oO":  # as in `bash -eo pipefail -c LINE`
            next(words, "")
    return False


def check_environment(envs: "Optional[Mapping[str, Optional[str]]]") -> "Dict[bytes, Optional[bytes]]":
    """Return environment variables as exec takes them; None unsets one. Raises SchemaError."""
    changes: "Dict[bytes, Optional[bytes]]" = {}
    for key, value in (envs or {}).items():
        if not isinstance(key, str) or not key or "=" in key:
            raise SchemaError("envs: %r cannot be the name of an environment variable" % (key,))
        if value is not None and not isinstance(value, str):
            raise SchemaError("envs: the value of %s must be text (or None, to unset it), not %s"
                              % (key, type(value).__name__))
        name = to_bytes("the name of an environment variable", platform.variable(key))
        changes[name] = None if value is None else to_bytes("envs: the value of " + key, value)
    return changes


def known(record: "Any", job_id: str, run: "Optional[int]", db_path: str) -> "Any":
    """Return the record. Raises UnknownJob if it is None."""
    if record is None:
        raise UnknownJob(job_id, run, db_path)
    return record


class Watched:
    """A run that somebody waits for or follows, and so looks at again and again (rule 12).

    Its journal stays open, so that its end is known even if somebody removes it at once.
    """

    def __init__(self, jobs: "Jobs", record: "JobRecord") -> None:
        self.jobs, self.record, self.journal = jobs, record, -1
        if record.status in ACTIVE:
            try:
                self.journal = platform.open(record.logdir + SEP + JOURNAL, os.O_RDONLY)
            except OSError:
                pass  # then its directory is all that there is

    def look(self) -> "Any":
        """Return the record of that run and no other, as it is now or was at its end; None if nobody knows it now."""
        store, before = self.jobs.store, self.record
        found = store.again(before)
        if found is None and self.journal >= 0:
            state = store.judge(read_whole(self.journal), before.logdir + SEP + JOURNAL)
            if state.get("cookie") == before.cookie and state.get("status") in ENDED:
                found = store.record_of(state, before.self_id, before.run, before.logdir)
        return found

    def looks(self, deadline: float = FOREVER, every: float = FOREVER) -> "Iterator[Any]":
        """Yield the record when it may have changed, at least `every` so many seconds, until its end or the deadline.

        The last one is that of the end, or of the deadline, or None if the run was removed unseen. Between two looks
        it costs next to nothing. Raises NodejobsError in a process of that run: it would wait for ever.
        """
        record, size, next_look, next_start = self.record, -1, 0.0, 0.0
        problems: "Dict[str, str]" = {}
        if record.status in ACTIVE and record.cookie == os.environ.get("NODEJOBS_COOKIE", ""):
            raise NodejobsError("job %r cannot wait for itself: this process is part of it" % record.self_id)
        try:
            while True:
                grown = os.fstat(self.journal).st_size if self.journal >= 0 else -1
                if record.status in ACTIVE and (grown != size or time.monotonic() >= min(next_look, deadline)):
                    with Translate("read", self.jobs.db_path):
                        record = self.look()
                        if record is not None and record.status == QUEUED and not record.error:
                            record["error"] = problems.get(record.cookie) or problems.get(QUEUE)
                    size, next_look = grown, time.monotonic() + 1.0
                yield record
                if record is None or record.status not in ACTIVE or time.monotonic() >= deadline:
                    return

                if record.status == QUEUED and time.monotonic() >= next_start:
                    # Whoever waits sees to it that it comes to its turn, but does not try what fails again and again.
                    problems = self.jobs._serve(wait=False)
                    next_start = time.monotonic() + (10.0 if problems else 1.0)
                until = min(deadline, time.monotonic() + every)
                pause(record, until)
                if time.monotonic() < until:
                    next_look = 0.0  # something has happened
        finally:
            self.close()

    def wait(self, deadline: float) -> "Any":
        """Wait until the run has ended or the deadline; return its record then, None if it was removed unseen."""
        for record in self.looks(deadline):
            pass
        return record

    def close(self) -> None:
        if self.journal >= 0:
            os.close(self.journal)
        self.journal = -1


def pause(record: JobRecord, until: float) -> None:
    """Wait until a run may have changed, but not longer than until then."""
    seconds = until - time.monotonic()
    if record.last_pid is None or seconds <= FOLLOW_SECONDS:  # there is no process yet; or a follower looks often anyway
        time.sleep(min(max(seconds, 0.0), FOLLOW_SECONDS))
    elif record.monitored:
        here = record.boot_id == platform.boot_id()
        platform.await_monitor(record.logdir + SEP + LOCK, Run(record) if here else None, until)
    else:
        platform.await_command(Run(record), until)
        time.sleep(POLL_SECONDS)  # it is gone, and its monitor, whose lock we may not read, goes on


class Follower:
    """The logs of a run, read as they grow; it says, once, what somebody has done to one.

    `places`: how far each was read. `names`: which of them to read.
    """

    def __init__(self, store: "Store", record: "JobRecord", places: "Dict[str, int]", names: "Iterable[str]") -> None:
        self.store, self.places = store, places
        self.told_gone: "Set[str]" = set()
        self.is_there: "Any" = lambda: store.again(record) is not None
        self.logs = {name: read_log(record[name + "_path"], places[name], self.is_there) for name in names
                     if name in places and not (record.merge and name == "stderr")}

    def read(self, record: "Any") -> "Iterator[Tuple[str, str, Any]]":
        """Yield what has come since, as (name of a log, kind, content); `record` is the run's as it is now.

        Of the log's own name as the kind the content is bytes, b"" at the end; of CUT and GONE it is text.
        """
        unread = list(self.logs)
        with Translate("read", record.logdir):
            while unread:
                name = unread.pop(0)  # in turns: none may keep the other waiting
                part, self.places[name], wrong = next(self.logs[name])
                yield name, name, part

                if part or wrong == CUT:
                    unread.append(name)
                elif not wrong:
                    self.told_gone.discard(name)
                if wrong == CUT:
                    yield name, CUT, "%s.log was cut; what follows is from its beginning" % name
                elif wrong and name not in self.told_gone and record.last_pid is not None and self.is_there():
                    self.told_gone.add(name)
                    yield name, GONE, self.where_it_is(record, name)

    def where_it_is(self, record: "Any", name: str) -> str:
        """Say that a log is not in its place, and where its output can be read instead."""
        text = "%s.log is gone: somebody has removed or renamed %s" % (name, record[name + "_path"])
        # Only a look at what it is: to open a pipe, which it may be too, would take output away.
        place = "/proc/%d/fd/%d" % (record.last_pid, 2 if name == "stderr" else 1)
        if self.store.is_alive(record) and os.path.isfile(place):
            text += "; the command still writes to " + place
        return text


def places_in(record: "Any", lines: "Optional[int]") -> "Dict[str, int]":
    """Return where the last lines of a run's logs begin; by default, where the logs do."""
    if lines is None:
        return {"stdout": 0, "stderr": 0}
    with Translate("read", record.logdir):
        return {name: place_of_last(record[name + "_path"], lines) for name in ("stdout", "stderr")}


def events(jobs: "Jobs", job_id: str, record: "Any", places: "Dict[str, int]", include: "Sequence[str]",
           poll_interval: float, heartbeat_interval: "Optional[float]", seq: int) -> "Iterator[JobEvent]":
    """Yield the events of `Jobs.bind`: its logs from these places on, and `seq` events after the first."""
    import codecs
    while record is None:
        time.sleep(poll_interval)
        record = jobs.get_status(job_id)
    decoders: "Any" = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in places}
    follower, status, quiet = Follower(jobs.store, record, places, include), None, time.monotonic()

    def event(kind: str, text: "Optional[str]" = None) -> JobEvent:
        nonlocal seq, quiet
        seq, quiet = seq + 1, time.monotonic()
        place = "%d.%d.%.8s.%d.%d" % (seq, record.run, record.cookie, places["stdout"], places["stderr"])
        return JobEvent(type=kind, job_id=job_id, text=text, status=status if kind == "status" else None, seq=seq,
                        id=place, ts=iso_time(time.time()))

    for latest in Watched(jobs, record).looks(every=poll_interval):
        if latest is None:
            return
        over = latest.status not in ACTIVE
        if latest.status != status and not over:
            status = latest.status
            yield event("status")
        for name, kind, content in follower.read(latest):
            if kind == name:
                content = decoders[name].decode(content, over and not content)
            elif kind == CUT:
                decoders[name].reset()
            # Of a character that is not complete, the first bytes are yet to be told.
            places[name] -= len(decoders[name].getstate()[0])
            if content:
                yield event(kind, content)
        if over:
            status = latest.status
            yield event("status")
        elif heartbeat_interval and time.monotonic() - quiet >= heartbeat_interval:
            yield event("heartbeat")


def check_fields(record_class: "Type[JobRecord]", fields: "Dict[str, Any]") -> "Dict[str, Any]":
    """Return the fields that a subclass of JobRecord adds. Raises SchemaError."""
    added = {key: field for key, field in record_class.fields.items() if key not in JobRecord.fields}
    for key, value in fields.items():
        if key not in added:
            raise SchemaError("run() takes no %r; it takes the fields that record_class adds to JobRecord: %s"
                              % (key, ", ".join(added) or "none"))
        record_class.check(key, value)
    for key, field in added.items():
        if field.required and fields.get(key) is None:
            raise SchemaError("%s.%s is required: pass %s=... to run()" % (record_class.__name__, key, key))
    try:
        to_json(fields)
    except TypeError as error:
        raise SchemaError("a field cannot be stored: %s" % error) from None
    return fields


class Launch:
    """What it takes to start a run: `entry`, the first line of its journal, and `order`, what must not be on disk with it.

    Raises SchemaError.
    """

    def __init__(self, jobs: "Jobs", command: "Command", cwd: "Union[None, str, os.PathLike[str]]",
                 envs: "Optional[Mapping[str, Optional[str]]]", startsecs: float) -> None:
        if not jobs.python or getattr(sys, "frozen", False) and jobs.python == sys.executable:
            raise NodejobsError("there is no Python to run the monitor with; set Jobs.python to the path of one "
                                "of version %s" % sys.version.split()[0])
        shown, argv = check_command(command)
        changes = check_environment(envs)
        self.program = shown.split()[0] if isinstance(shown, str) else shown[0]
        self.has_cwd = cwd is not None
        with Translate("read", jobs.db_path):
            # Where ours was deleted, the command starts there all the same.
            directory = working_directory() if cwd is None else full_path(os.fsdecode(cwd))
        place = to_bytes("cwd", directory or "")
        if self.has_cwd:
            changes.setdefault(b"PWD", place)
        self.entry: "Dict[str, Any]" = {
            "status": STARTING, "self_id": None, "run": None, "command": shown, "cwd": directory, "format": 1,
            "user": platform.user(), "host": platform.host(), "boot_id": platform.boot_id(),
            "cookie": os.urandom(16).hex()}
        self.order: "Dict[str, Any]" = {
            "argv": argv, "changes": changes, "environment": platform.environment(), "umask": None, "keep": jobs.keep,
            "startsecs": startsecs if is_shell(shown) else 0.0, "cwd": place if self.has_cwd else None}

    def wait_for(self, queue: "Optional[str]", after: "List[List[Any]]", after_ok: "List[List[Any]]") -> None:
        """Have the run wait in a queue, for those runs to end, and for others to finish."""
        self.entry.update(status=QUEUED, format=FORMAT, queue=queue)
        for key, runs in ("after", after), ("after_ok", after_ok):
            if runs:
                self.entry[key] = runs

    def keep_place(self) -> None:
        """Have the run begin where and as we are now, whoever starts it."""
        if self.entry["cwd"] is None:
            raise SchemaError("our working directory was deleted; say in which one the job shall start: cwd, --cwd")
        self.order.update(umask=platform.creation_mask(), cwd=to_bytes("cwd", self.entry["cwd"]))  # in another locale, too

    def is_of(self, record: "JobRecord") -> bool:
        """Tell whether a run had the same command, in the same directory, if one is given."""
        same_place = not self.has_cwd or record.cwd == self.entry["cwd"]
        return record.command == self.entry["command"] and same_place


class Stop:
    """The stop of one job, step by step. Where several are stopped, all do a step before any does the next."""

    def __init__(self, jobs: "Jobs", job_id: str, signal: str) -> None:
        self.jobs, self.store, self.job_id, self.signal = jobs, jobs.store, job_id, signal
        self.stopped_by = this_process()
        self.record: "Any" = None
        self.error: "Optional[NodejobsError]" = None
        self.runs: "List[Tuple[Watched, Members]]" = []  # those that may have processes, the newest first
        self.outlived: "List[List[int]]" = []            # the pids of each that could not be ended

    def attempt(self, step: "Any") -> None:
        """Do a step, unless an earlier one has failed; note the error that it comes to."""
        try:
            if self.error is None:
                with Translate("stop a job of", self.store.path):
                    step(self)
        except StoreError as error:
            self.error = error
            if isinstance(error.__cause__, FileNotFoundError):
                self.record = self.error = None  # it has ended, and was removed meanwhile
        except NodejobsError as error:
            self.error = error

    def close(self) -> None:
        for watched, _ in self.runs:
            watched.close()

    def find(self) -> None:
        self.record = self.store.read(self.job_id)

    def leave_queue(self) -> None:
        self.record = self.jobs.queue.stop(self.record, self.stopped_by)

    def await_start(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while self.record is not None and self.record.status in (QUEUED, STARTING):
            if time.monotonic() > deadline:
                raise CannotStop(self.record, [], "its launcher has been starting it for %d s" % LOCK_SECONDS)
            time.sleep(POLL_SECONDS)
            self.record = self.store.again(self.record)
            self.leave_queue()

    def ask(self) -> None:
        """Find the runs that may have processes, and note in the journal of what runs that it is to stop."""
        record = self.record
        if record is None:
            return
        if not record.ended and None in (record.last_pid, record.cookie):
            raise CannotStop(record, [], "its processes are not known: %s; "
                                         "look for NODEJOBS_ID=%s in the environments that `ps axeww` shows"
                             % (record.error, printable(record.self_id)))

        if not record.ended and record.boot_id != platform.boot_id():
            raise CannotStop(record, [record.last_pid], "it runs on another machine or in another pid namespace (%s); "
                                                        "stop it there" % record.host)

        for each in [record, *self.jobs.history(self.job_id)]:
            left = each.run < record.run and (each.left_behind or each.status == LOST)
            known = each.boot_id == platform.boot_id() and None not in (each.last_pid, each.cookie)
            if known and (each is record or left):
                self.runs.append((Watched(self.jobs, each), dict(each.left_behind or ())))
        if record.status == RUNNING:
            self.note()

    def note(self) -> None:
        try:
            self.store.append(self.job_id, self.record.run, {"status": STOPPING, "stop_signal": self.signal,
                                                             "stopped_by": self.stopped_by}, self.record.cookie)
        except FileNotFoundError:
            raise
        except OSError as error:
            # A full disk is a reason to stop what fills it, not to let it run; only the status will
            # then say "failed" (by that signal) and not "stopped".
            self.jobs._say("cannot note the stop of %s: %s" % (self.job_id, error))

    def conclude(self) -> None:
        """See what has come of it, when all was ended that could be; have the record as it is then."""
        ended = []
        for (watched, members), pids in zip(self.runs, self.outlived):
            if pids:
                raise CannotStop(watched.record, pids, "these processes outlived even SIGKILL, or belong to another "
                                 "user (`sudo kill` ends those): %s" % ", ".join(map(str, pids)))
            if watched.record.ended:
                ended += sorted(members)
        if self.runs and self.runs[0][0].record is self.record:
            self.await_end(self.runs[0][0])
        if ended and self.record is not None:
            self.record["ended_pids"] = ended

    def await_end(self, watched: Watched) -> None:
        """Wait until the monitor of what was ended has written that down."""
        record = self.record
        self.jobs._say("%s: stopped" % self.job_id)
        if record.ended or os.environ.get("NODEJOBS_COOKIE") == record.cookie:  # we are of it: it ends after us
            self.record = self.store.again(record)
            return

        self.record = watched.wait(time.monotonic() + KILL_SECONDS)
        monitor = record.monitor_pid or 0
        trying = (platform.start_time(monitor) == record.monitor_start
                  and platform.cookie_of(monitor) in (None, MONITOR_COOKIE))
        if self.record is not None and self.record.status == LOST and not trying:  # one that lives will write the end
            self.store.append(self.job_id, record.run, {
                "status": STOPPED, "ended_at": iso_time(time.time()),
                "error": "its monitor had been killed before, so its exit code is unknown"}, record.cookie)
            self.record = self.store.again(record)

        if self.record is not None and not self.record.ended:
            raise what_holds(self.record)


def what_holds(record: "Any") -> CannotStop:
    """Say what keeps a run from its end although its processes were killed."""
    command, monitor = record.last_pid, record.monitor_pid or 0
    if platform.is_command(Run(record)):
        return CannotStop(record, [command], "its command, pid %d, lives on" % command)
    if platform.start_time(monitor) == record.monitor_start:
        # Whoever is traced stays a zombie until its tracer has taken note of its end; then its parent may.
        for pid in (monitor, command, *platform.children(monitor)):
            tracer = platform.tracer(pid)
            if tracer:
                return CannotStop(record, [pid], "a debugger, pid %d, holds its process %d; end that, or have it "
                                                 "let go" % (tracer, pid))
        if platform.is_suspended(monitor):
            return CannotStop(record, [monitor], "its monitor, pid %d, is suspended; let it go on with "
                                                 "`kill -CONT %d`" % (monitor, monitor))
    return CannotStop(record, [monitor], "its processes are gone, but its monitor, pid %d, has not written the end "
                                         "for %d s" % (monitor, KILL_SECONDS))


def age_of(record: "JobRecord") -> float:
    """Return how many seconds ago a run ended, at the least."""
    ended_at = epoch_time(record.ended_at or record.last_update)
    age = float("-inf") if ended_at is None else time.time() - ended_at
    if record.boot_id == platform.boot_id() and record.started_clock is not None and record.duration is not None:
        # A machine without a clock starts in the past, and then sets it: what ran before is not older for that.
        age = min(age, time.monotonic() - record.started_clock - record.duration)
    return age


def prune_job(jobs: "Jobs", job_id: str, older_than: "Optional[float]", keep: "Optional[int]") -> "List[Any]":
    """Delete those runs of a job that `Jobs.prune` is asked to; return their records."""
    try:
        with JobLock(jobs.store, job_id, create=False) as lock:
            records = jobs.store.read_all(job_id, lock.path, holding=True)
            doomed: "List[Any]" = []
            for newer, record in enumerate(reversed(records)):
                old = older_than is not None and age_of(record) > older_than
                if record.ended and (old or keep is not None and newer >= keep):
                    (jobs.spared if record.left_behind else doomed).append(record)

            if len(doomed) == len(records):
                foreign = jobs.store.discard_job(lock.path)
                if doomed:
                    doomed[0]["foreign"] = foreign or None
            else:
                for record in reversed(doomed):
                    record["foreign"] = jobs.store.discard(record.logdir) or None
            return doomed
    except (FileNotFoundError, NotADirectoryError):
        return []  # removed meanwhile, or no job
    except PermissionError as error:
        if jobs.store.unreadable(job_id, jobs.store.job_dir(job_id), error) is not None:
            raise
        return []


class Jobs:
    """Run, track, log and stop external commands, kept in one directory.

    `db_path`: where; by default $NODEJOBS_DB, else $XDG_STATE_HOME/nodejobs, else ~/.local/state/nodejobs
    (Windows: %LOCALAPPDATA%\\nodejobs).
    `verbose`: say on stderr what is started and stopped. `keep`: how many runs of each job to keep.

    Nothing is made, started or locked until `run` is called. All state is in the directory: any number of
    threads and processes may use it at once.
    Raises StoreError where the directory cannot be used, SchemaError (a ValueError) for bad arguments.
    """

    record_class: "Type[JobRecord]" = JobRecord
    spared: "List[Any]" = []  # records of what the last prune left, since something of them still runs
    _adopted: "List[int]" = []  # monitors that became this process' children; see _reap
    python = platform.interpreter()   # runs the monitors; the same version as ours. Set it where Python is embedded

    def __init__(self, db_path: "Union[None, str, os.PathLike[str]]" = None, verbose: bool = False,
                 keep: int = KEEP) -> None:
        check_count("keep", keep if keep is not None else 0, "runs", 1)
        path = os.fsdecode(db_path) if db_path is not None else default_db_path()
        if not path:
            raise SchemaError("the directory of the jobs is empty text; name one, or leave it out for the default")
        with Translate("find", path):
            self.store = Store(path, self.record_class, db_path is None and not os.environ.get("NODEJOBS_DB"))
        self.queue = Queue(self.store)
        self.db_path, self.verbose, self.keep = self.store.path, verbose, keep

    def _reap(self) -> None:
        """Wait for monitors that became our children, which happens where we are PID 1 of a container."""
        for pid in self._adopted[:]:
            if platform.reap(pid, False) and pid in self._adopted:
                self._adopted.remove(pid)

    def run(self, command: "Command", job_id: "Optional[str]" = None,
            cwd: "Union[None, str, os.PathLike[str]]" = None, envs: "Optional[Mapping[str, Optional[str]]]" = None,
            *, startsecs: float = STARTSECS, fresh_for: "Optional[float]" = None, timeout: "Optional[float]" = None,
            merge: bool = False, max_log: "Optional[int]" = None, queue: "Optional[str]" = None,
            slots: "Optional[int]" = None, after: "Union[str, Sequence[str]]" = (),
            after_ok: "Union[str, Sequence[str]]" = (), first: bool = False, **fields: "Any") -> "Any":
        """Start a command, or queue it, and return its record, without waiting for its end.

        command    a list is executed as it is; a string is a shell command line
        job_id     by default one is made up, readable and new
        cwd        its working directory, and its $PWD; by default ours
        envs       environment variables on top of ours; None as a value unsets one
        startsecs  watch it for so many seconds, and return the moment it ends; with 0, when its exec has succeeded.
                   A shell (also ["bash", "-c", LINE]) that ends with 126 or 127 within this time: failed_start
        fresh_for  if the last run was of the same command (and in `cwd`, where that is given), and finished with
                   success within so many seconds, or is queued or runs now, return its record and start nothing
        timeout    seconds after which its whole tree is ended; what it leaves behind when it ends earlier is not
        merge      send its stderr to stdout.log too, in order
        max_log    bytes that its logs may take together, half of them each stream's: the oldest output is dropped
                   for the newest. The monitor moves it then, so who kills that breaks the command's output
        queue      the name of a queue: it is started when its turn has come, first in, first out
        slots      how many jobs of that queue may run at once, from now on; 1 for a new queue
        after      ids of jobs whose newest runs must have ended, however, before it is started
        after_ok   the same, but they must have finished; otherwise it becomes failed_start
        first      put it at the front of the queue
        fields     the fields that a subclass of JobRecord adds (see record_class)

        A command that cannot be executed is no exception: the record says failed_start, and why. What is queued
        gets our environment, working directory and umask when it starts; other limits are of who starts it.
        Raises JobRunning if the job is active, UnknownJob for what `after` and `after_ok` do not find.
        """
        check_seconds("startsecs", startsecs)
        check_seconds("fresh_for", fresh_for)
        check_seconds("timeout", timeout, least=0.001)
        check_count("max_log", max_log, "bytes", LEAST_LOG)
        launch = Launch(self, command, cwd, envs, startsecs)
        launch.entry.update(check_fields(self.record_class, fields), timeout=timeout, merge=bool(merge))
        if max_log is not None:
            launch.entry["max_log"] = max_log
        if job_id is not None:
            escape_id(job_id)
        if queue is not None:
            check_queue(queue, slots)
        elif slots is not None or first:
            raise SchemaError("slots and first are matters of a queue; name one")

        with Translate("write to", self.db_path):
            self.store.make()
            if queue is not None or after or after_ok:
                launch.wait_for(queue, self._newest_runs(job_id, after), self._newest_runs(job_id, after_ok))
            record = self._run(job_id or self._new_id(launch.program), launch, fresh_for, slots, first)
            if record.status not in (QUEUED, *ENDED) and startsecs and not record.fresh:
                record = Watched(self, record).wait(time.monotonic() + startsecs) or record
        self._reap()
        self._say("%s: %s (run %s, pid %s)" % (record.self_id, record.status, record.run, record.last_pid))
        try:
            self.queue.place([record])
        except OSError as error:
            self._say("cannot tell the place of %s: %s" % (record.self_id, error))  # it has one all the same
        return record

    def _run(self, job_id: str, launch: "Launch", fresh_for: "Optional[float]", slots: "Optional[int]",
             first: bool) -> "Any":
        """Start a new run, or queue it, unless it is needless; return its record, or that of the run that is fresh."""
        entry = launch.entry
        try:
            with JobLock(self.store, job_id, create=True) as lock:
                record = self._needless(lock, launch, fresh_for)
                if record is None and entry["status"] == QUEUED:
                    launch.keep_place()
                    run = self.queue.add(lock, entry, launch.order, slots, first, self.python)
                    record = self.store.read(job_id, run, holding=True)
                elif record is None:
                    record = self._start(dict(entry, run=self.store.new_run(lock, entry)), launch.order, lock)
        except (OSError, NodejobsError):
            self.start_due()  # others may have waited for what could not be started, or for a lock that we had
            raise

        problems = self._serve(wait=entry["status"] == QUEUED)
        record = self.store.again(record) or record  # somebody may have removed it
        if record.cookie != entry["cookie"]:
            self._say("%s is fresh: %s" % (job_id, record.status))
            record["fresh"] = True
        elif record.status == QUEUED:
            of_all = problems.get(QUEUE, problems.get(self.db_path))
            record["error"] = record.error or problems.get(record.cookie) or of_all
        return record

    def _needless(self, lock: JobLock, launch: "Launch", fresh_for: "Optional[float]") -> "Any":
        """Return the record that makes another run of the locked job needless, if there is one."""
        last = self.store.read(lock.job_id, holding=True)
        if last is None:
            return None
        if fresh_for is not None and launch.is_of(last):
            ended_at = epoch_time(last.ended_at)
            age = None if ended_at is None else time.time() - ended_at
            if not last.ended or last.status == FINISHED and age is not None and 0 <= age <= fresh_for:
                return last
        if last.status is None:
            raise StoreError("not started: nobody can tell whether %r still runs, %s; run it as the user who "
                             "may read %s" % (lock.job_id, last.error, last.logdir), last.logdir)
        if not last.ended:
            raise JobRunning(last, "not started")
        return None

    def _newest_runs(self, job_id: "Optional[str]", needed: "Union[str, Sequence[str]]") -> "List[List[Any]]":
        """Return [id, run, cookie] of the newest runs that a job needs. That they exist leaves no room for a cycle."""
        ids = dict.fromkeys([needed] if isinstance(needed, str) else needed)
        if job_id in ids:
            raise SchemaError("job %r cannot wait for itself" % job_id)
        records = [known(self.store.read(each), each, None, self.db_path) for each in ids]
        return [[record.self_id, record.run, record.cookie] for record in records]

    def start_due(self) -> "Dict[str, str]":
        """Start what is due in the queues: for example after a reboot. Any call that may write does this, too.

        Returns what went wrong: {cookie of a run that is still queued, ".queue" for all, or the store's path: why}.
        """
        return self._serve(wait=True)

    def _serve(self, wait: bool) -> "Dict[str, str]":
        """Start what is due; where somebody else is looking just now, `wait` for that, or leave it to him."""
        problems = self.queue.serve(self._start, self.python, wait)
        for problem in problems.values():
            self._say("cannot start what is due: %s" % problem)
        return problems

    def queues(self) -> "Dict[str, QueueRecord]":
        """Return {name: how it stands} of all queues, sorted by name."""
        with Translate("read", self.db_path):
            return self.queue.queues()

    def pause(self, queue: str) -> "QueueRecord":
        """Start nothing from that queue until it is resumed; what runs goes on.

        Raises NodejobsError if there is none of that name.
        """
        return self._set_queue(queue, None, True)

    def resume(self, queue: str, slots: "Optional[int]" = None) -> "QueueRecord":
        """Start again what is due in that queue; with `slots`, set how many of its jobs may run at once.

        With `slots` it may be a new queue; else it raises NodejobsError if there is none of that name.
        """
        return self._set_queue(queue, slots, False)

    def _set_queue(self, queue: str, slots: "Optional[int]", paused: bool) -> "QueueRecord":
        check_queue(queue, slots)
        with Translate("write to", self.db_path):
            names = list(self.queues())
            if queue not in names and slots is None:
                raise NodejobsError("there is no queue %r in %s, whose queues are: %s" % (
                    queue, self.db_path, ", ".join(names) or "none"))
            self.store.make()
            with self.queue.lock():
                stood = self.queue.set(queue, slots, paused)
        problems = self.start_due()
        record = self.queues().get(queue) or stood  # somebody may have pruned it meanwhile
        if problems:
            record["error"] = record.error or "; ".join(problems.values())
        return record

    def first(self, job_id: str) -> "Any":
        """Move a queued job to the front of its queue; return its record.

        Raises UnknownJob if there is no such job, NodejobsError if it is in no queue any more.
        """
        self.store.check_owner()
        record = known(self.get_status(job_id), job_id, None, self.db_path)
        with Translate("write to", self.db_path):
            if record.status == QUEUED and record.queue is not None:
                self.queue.first(record)
        self.start_due()
        after = known(self.get_status(job_id), job_id, None, self.db_path)
        if record.status != QUEUED or record.queue is None:
            raise NodejobsError("job %r waits in no queue: it is %s" % (job_id, after.status))
        return after

    def _new_id(self, program: str) -> str:
        """Make up an id that is new and says something: the program's name and four letters."""
        program = os.path.basename(program).lower()
        program = "".join([char for char in program if char in PLAIN]).strip(".-")[:40] or "job"
        while True:
            job_id = program + "-" + "".join(["abcdefghijkmnpqrstuvwxyz23456789"[byte % 32] for byte in os.urandom(4)])
            if self.store.make_locked(self.store.job_dir(job_id)):
                return job_id

    def _start(self, entry: "Dict[str, Any]", launch: "Dict[str, Any]", lock: JobLock) -> "Any":
        """Start the monitor of a run of the locked job; return its record when the outcome of the start is known."""
        job_id, run = lock.job_id, entry["run"]
        self._start_monitor(entry, launch, lock)
        started = self.store.read(job_id, run, holding=True)
        if started is None:
            raise StoreError("somebody has taken away the directory of run %d of job %r; if it was started, "
                             "nobody will know what becomes of it" % (run, job_id), lock.path)
        if started.monitor_pid is not None and not platform.reap(started.monitor_pid, False):
            self._adopted.append(started.monitor_pid)
        self._forget_old_runs(lock, launch["keep"])
        return started

    def _start_monitor(self, entry: "Dict[str, Any]", launch: "Dict[str, Any]", lock: JobLock) -> None:
        # The monitor has the launcher's environment, less what an enclosing job left in it; the command's changes come
        # with the order, so that they neither disturb the monitor nor show in its /proc/PID/environ.
        environment = {key: value for key, value in launch["environment"].items() if key not in OUR_VARIABLES}
        environment[COOKIE_VARIABLE] = MONITOR_COOKIE
        order = self._order(entry, launch, environment, lock.job_id)
        argv, payload = monitor_program(self.python, lock.job_id, order)
        run_lock = self.store.run_dir(lock.job_id, entry["run"]) + SEP + LOCK

        report, number = b"", 0
        problem = "its monitor died; see whether %s runs, and is Python %s" % (self.python, sys.version.split()[0])
        lock.starting = True
        try:
            report = platform.start_monitor(argv, environment, payload, lock.fd, run_lock)
        except OSError as error:
            number = error.errno or 0
            problem = "cannot start %s: %s" % (self.python, error.strerror)
        lock.starting = False
        if report:
            code, _, problem = report[1:].decode("utf-8", "replace").partition(" ")
            number = int(code or 0)
        if problem:
            self._give_up(entry, lock, bool(report), number, problem)

    def _order(self, entry: "Dict[str, Any]", launch: "Dict[str, Any]", environment: "Dict[bytes, bytes]", job_id: str,
               ) -> "Dict[str, Any]":
        """Return what a monitor with that environment has to know of its run."""
        changes = dict(launch["changes"])
        changes.update(zip(OUR_VARIABLES, (job_id.encode("utf-8", "surrogateescape"), b"%d" % entry["run"],
                                           os.fsencode(self.db_path), entry["cookie"].encode())))

        path = changes.get(b"PATH", environment.get(b"PATH")) or os.defpath.encode()
        argv = launch["argv"]
        line = argv[0] if isinstance(entry["command"], str) else None
        directory, queued = self.store.run_dir(job_id, entry["run"]), entry.get("queued_at") is not None

        noted = {"status": STARTING, "boot_id": platform.boot_id(), "host": platform.host()}  # not where it was queued
        return {
            **{key: entry.get(key) for key in ("cookie", "merge", "max_log", "timeout")},
            "directory": os.fsencode(directory), "environment": changes,
            "cwd": launch["cwd"], "umask": launch["umask"], "grace": GRACE, "shell_startsecs": launch["startsecs"],
            "store": os.fsencode(self.db_path), "queue": os.fsencode(self.queue.path),
            "launch": os.fsencode(launch_path(directory, entry["cookie"])) if queued else None,
            "noted": noted if queued else {},
            **platform.execution(argv, line, path, entry["cwd"])}

    def _give_up(self, entry: "Dict[str, Any]", lock: JobLock, has_report: bool, number: int, problem: str) -> None:
        """Write down why a run was not started, and raise; but return where it was all the same, or can never be."""
        job_id, run, cookie = lock.job_id, entry["run"], entry["cookie"]
        failed: "Dict[str, Any]" = {"status": FAILED_START, "error": problem}
        is_too_long = number == errno.E2BIG and not has_report
        if is_too_long:
            failed.update(errno=number, error="command and environment are too long: %s" % os.strerror(number))
        # Another's Python may do better than ours, and there may be room later: what is queued stays so.
        if is_too_long or entry.get("queued_at") is None or has_report and number not in SHORTAGES:
            try:
                self.store.append(job_id, run, failed, cookie)
            except OSError:
                pass  # the same disk, most likely; without a pid in the journal it reads as failed_start anyway
        if is_too_long:
            return

        if has_report:  # until its monitor has ended, it would look like a job that runs
            run_lock = self.store.run_dir(job_id, run) + SEP + LOCK
            platform.await_monitor(run_lock, None, time.monotonic() + KILL_SECONDS)
        record = self.store.read(job_id, run, holding=True)
        if has_report or record is None or record.last_pid is None:
            raise NodejobsError("job %r was not started: %s" % (job_id, problem))
        # Its monitor died, or is slow, but not before it had forked the command (rule 4). That has its own cookie once
        # it executes; without the monitor's permit it is about to end.
        deadline = time.monotonic() + 1.0
        while (platform.start_time(record.last_pid) is not None and time.monotonic() < deadline
               and platform.cookie_of(record.last_pid) != cookie.encode()):
            time.sleep(POLL_SECONDS)

    def _forget_old_runs(self, lock: JobLock, keep: int) -> None:
        for run in self.store.runs(lock.path)[:-keep]:
            try:
                record = self.store.read(lock.job_id, run, holding=True)
                path = self.store.run_dir(lock.job_id, run)
                if record.ended and not record.left_behind if record is not None else is_our_run(path):
                    self.store.discard(path)
            except OSError as error:  # no reason to fail the new run
                self._say("cannot remove run %d of %s: %s" % (run, lock.job_id, error))

    def _say(self, text: str) -> None:
        if self.verbose and sys.stderr:
            sys.stderr.write("nodejobs: %s\n" % printable(text))

    def get_status(self, job_id: str, run: "Optional[int]" = None) -> "Any":
        """Return the record of a job's newest run, or of the run with that number; None if there is none."""
        self._reap()
        with Translate("read", self.db_path):
            record = self.store.read(job_id, run)
            if record is not None and record.status == QUEUED:
                self.queue.place([record])
            return record

    def list_status(self, filter: "Optional[Mapping[str, Any]]" = None) -> "JobRecordDict":
        """Return {id: record of its newest run}, sorted by id, of all jobs or those that match the filter.

        A filter is a dict over the record's keys; a value is one value, a list of values, or a glob:
        {"status": ["failed", "lost"], "self_id": "backup-*"}.
        """
        self._reap()
        wanted = self._filter(filter)
        found = JobRecordDict()
        with Translate("read", self.db_path):
            for job_id, directory in self.store.job_dirs():
                try:
                    record = self.store.read_newest(job_id, directory)
                except OSError as error:  # of one job; the others can be read
                    if error.errno in TOO_FEW:
                        raise
                    record = self.store.unreadable(job_id, directory, error)
                if record is not None and (not wanted or wanted.matches(record)):
                    found[job_id] = record
            self.queue.place(found.values())
        return found

    list = list_status

    def _filter(self, filter: "Optional[Mapping[str, Any]]") -> "JobFilter":
        return filter if isinstance(filter, JobFilter) else JobFilter(filter or (), record_class=self.record_class)

    def wait(self, job_id: str, timeout: "Optional[float]" = None) -> "Any":
        """Wait until the job's newest run has ended; return its record, None if there is no such job.

        With a timeout, in seconds, the record may be of a job that is still active: see record.ended.
        Raises NodejobsError in a process of that job itself: it would wait for ever.
        """
        check_seconds("timeout", timeout)
        with Translate("read", self.db_path):
            record = self.store.read(job_id)
            if record is not None:
                record = Watched(self, record).wait(time.monotonic() + (FOREVER if timeout is None else timeout))
            if record is not None:
                self.queue.place([record])
        self._reap()
        return record

    def stop(self, job_id: "Union[str, Sequence[str]]", grace: float = GRACE, signal: "Union[str, int]" = "TERM",
             ) -> "Any":
        """End all processes of a job: ask them by the signal, kill what is left after `grace` seconds.

        Returns the moment the last one is gone, with the record; None if there is no such job. What earlier runs have
        left in the background is ended too: see record.ended_pids. Of a list of jobs those that are queued never start,
        the others end at the same time, and it returns a list.
        Raises CannotStop, with the pids, if something could not be ended, or a debugger (or SIGSTOP) holds its end up.
        """
        results = self._stop([job_id] if isinstance(job_id, str) else job_id, grace, signal)
        for result in results.values():
            if isinstance(result, NodejobsError):
                raise result
        return results[job_id] if isinstance(job_id, str) else [results[each] for each in job_id]

    def _stop(self, ids: "Sequence[str]", grace: float, signal: "Union[str, int]") -> "Dict[str, Any]":
        """Stop jobs; return for each its record, None if it is not there, or the error that it came to."""
        check_seconds("grace", grace)
        number = signal_number(signal)
        self.store.check_owner()
        stops = [Stop(self, job_id, signal_name(number)) for job_id in dict.fromkeys(ids)]
        try:
            # All leave their queues before any ends: the end of one would start another.
            for step in Stop.find, Stop.leave_queue, Stop.await_start, Stop.ask:
                for each in stops:
                    each.attempt(step)

            with Translate("stop a job of", self.db_path):
                left = iter(platform.end_trees([(Run(watched.record), members) for each in stops
                                                for watched, members in each.runs], number, grace))
            for each in stops:
                each.outlived = [next(left) for _ in each.runs]
                each.attempt(Stop.conclude)
        finally:
            for each in stops:
                each.close()
        self.start_due()
        return {each.job_id: each.error or each.record for each in stops}

    def job_logs(self, job_id: str, run: "Optional[int]" = None) -> "Tuple[str, str]":
        """Return (stdout, stderr) as text; bytes that are not UTF-8 become U+FFFD.

        The files at record.stdout_path and record.stderr_path hold the exact bytes.
        Raises UnknownJob if there is no such job or run, StoreError if somebody has taken a log away.
        """
        record = known(self.get_status(job_id, run), job_id, run, self.db_path)
        texts = {"stdout": bytearray(), "stderr": bytearray()}
        for name, kind, content in Follower(self.store, record, places_in(record, None), texts).read(record):
            if kind == GONE:
                raise StoreError(content, record[name + "_path"])
            if kind == name:
                texts[name] += content
        known(self.store.again(record), job_id, record.run, self.db_path)
        return texts["stdout"].decode("utf-8", "replace"), texts["stderr"].decode("utf-8", "replace")

    def bind(self, job_id: str, include: "Sequence[str]" = ("stdout", "stderr"), from_beginning: bool = False,
             poll_interval: float = FOLLOW_SECONDS, heartbeat_interval: "Optional[float]" = 5.0,
             last_event_id: "Optional[str]" = None, wait: bool = False) -> "Iterator[JobEvent]":
        """Follow a job: return an iterator of JobEvents, which ends when the job has ended and all is read.

        include             which output: "stdout", "stderr" or both
        from_beginning      also what it has written so far
        poll_interval       seconds between looks
        heartbeat_interval  seconds without any event after which there is a heartbeat; None for none
        last_event_id       go on after the event with this id, without losing or repeating a byte
        wait                wait for a job that is not there yet, and begin at its beginning

        Its status comes first, at every change, and last. If the job is removed, the events just end. Where somebody
        has cut a log (see JobEvent.type), its text goes on from the beginning of what is there.
        Raises UnknownJob if there is no such job, and nobody waits for it; the iterator raises NodejobsError in a process
        of that job itself, which would wait for ever.
        """
        check_seconds("poll_interval", poll_interval, least=0.001)
        check_seconds("heartbeat_interval", heartbeat_interval)
        if isinstance(include, str) or not set(include) <= {"stdout", "stderr", "status", "heartbeat"}:
            raise SchemaError("include must be a list of stdout and stderr, not %r" % (include,))
        try:
            place = str(last_event_id or "0.0..0.0").split(".")
            seq, run, stdout, stderr = [int(place[part]) for part in (0, 1, 3, 4)]
        except (ValueError, IndexError):
            raise SchemaError("%.60r is not the id of an event of a job" % (last_event_id,)) from None

        places = {"stdout": stdout, "stderr": stderr}
        record = self.get_status(job_id, run) if run else None
        if record is None or not str(record.cookie).startswith(place[2]):  # that run is gone: begin with the newest
            record = self.get_status(job_id)
            if record is None and not wait:
                raise UnknownJob(job_id, None, self.db_path)
            # Of what has not started yet there is nothing to leave out.
            whole = from_beginning or wait or run or record.status in (QUEUED, STARTING)
            places = places_in(record, None if whole else 0)
        return events(self, job_id, record, places, include, poll_interval, heartbeat_interval, seq)

    def sse(self, job_id: str, include: "Sequence[str]" = ("stdout", "stderr"), from_beginning: bool = False,
            poll_interval: float = FOLLOW_SECONDS, heartbeat_interval: "Optional[float]" = 5.0,
            last_event_id: "Optional[str]" = None, wait: bool = False) -> "Iterator[str]":
        """Follow a job as `bind` does; return an iterator of text frames of a text/event-stream.

        The name of an event is its type, its data the JobEvent as JSON. See the HTML standard, "Server-sent
        events": a browser's EventSource reconnects by itself, also after the end; close it at an end status. A
        framework that loses its reader has to close() the iterator.
        """
        dumps: "Any" = to_json
        try:
            from json import dumps  # ten times as fast; minimal Pythons lack it
        except ImportError:
            pass
        events = self.bind(job_id, include, from_beginning, poll_interval, heartbeat_interval, last_event_id, wait)
        return ("id: %s\nevent: %s\ndata: %s\n\n" % (event.id, event.type, dumps(event)) for event in events)

    def history(self, job_id: str) -> "List[Any]":
        """Return the records of all runs that are kept, the oldest first; [] if there is no such job."""
        with Translate("read", self.db_path):
            directory = self.store.job_dir(job_id)
            return [] if os.path.islink(directory) else self.store.read_all(job_id, directory)

    def remove(self, job_id: str) -> "Any":
        """Delete a job, all its runs and logs; return the record of its newest run.

        A queued one leaves its queue. Raises UnknownJob if there is none, JobRunning if it runs, or if something that
        one of its runs has left in the background does. What nodejobs has not made stays: see record.foreign.
        """
        self.store.check_owner()
        record = known(self.get_status(job_id), job_id, None, self.db_path)
        with Translate("remove from", self.db_path):
            try:
                if record.status == QUEUED:
                    self.queue.stop(record, this_process())
                    self.start_due()  # what needs it sees that it was stopped, before it is gone
                with JobLock(self.store, job_id, create=False) as lock:
                    record = known(self.store.read(job_id, holding=True), job_id, None, self.db_path)
                    for each in [record, *self.store.read_all(job_id, lock.path, holding=True)]:
                        if not each.ended or each.left_behind:
                            raise JobRunning(each, "not removed")
                    record["foreign"] = self.store.discard_job(lock.path) or None
            except FileNotFoundError:
                raise UnknownJob(job_id, None, self.db_path) from None  # somebody else has removed it
            self.store.sweep()
        self._serve(wait=False)
        return record

    def prune(self, older_than: "Optional[float]" = None, keep: "Optional[int]" = None,
              filter: "Optional[Mapping[str, Any]]" = None) -> "List[Any]":
        """Delete runs that have ended, and jobs of which no run is left; return their records.

        older_than  those that ended more than so many seconds ago
        keep        those beyond so many newest runs of each job (0: all that have ended)
        filter      only of jobs whose newest record matches, as in list_status
        With neither of the first two, what is beyond the `keep` of this Jobs. What is active always stays, and so does
        a run of which something still runs in the background (they are in `spared` afterwards), and what nodejobs has
        not made (see record.foreign).
        """
        check_seconds("older_than", older_than)
        check_count("keep", keep, "runs", 0)
        if keep is None and older_than is None:
            keep = self.keep
        removed: "List[Any]" = []
        self.spared = []
        self.store.check_owner()
        with Translate("remove from", self.db_path):
            # Without a filter also what a launcher that was killed before its first line has left: no record at all.
            for job_id in self.list_status(filter) if filter else dict(self.store.job_dirs()):
                removed += prune_job(self, job_id, older_than, keep)
            if removed:
                self.store.sweep()
            self._serve(wait=False)
            if os.path.isdir(self.queue.path):
                self.queue.tidy()
        return removed


# ------ 8. command line ------

EXIT_USAGE, EXIT_TIMEOUT, EXIT_ERROR = 2, 124, 125
EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, EXIT_SIGNAL = 126, 127, 128
TAIL_LINES, TAIL_BYTES = 10, 65536  # of a failed run's stderr, what is shown and what is read for it
# What a terminal obeys and does not show: colours and other CSI, titles and other strings (OSC, DCS ...), the rest.
ESCAPES = r"\033(\[[0-?]*[ -/]*[@-~]|[]PX^_][^\a\033\n]*(\a|\033\\)|[ -/]*[0-~])"
LIST_TITLES = "ID STATUS EXIT TIME STARTED COMMAND"
QUEUE_TITLES = "QUEUE STATE SLOTS RUNNING WAITING"
HISTORY_TITLES = "RUN STATUS EXIT TIME STARTED ERROR"
NARROW = 12  # columns of a terminal, enough for any status
COLOURS = {FINISHED: "32", FAILED: "31", FAILED_START: "31", LOST: "35", STOPPED: "33"}


def with_unit(text: str, units: "Dict[str, int]", what: str) -> float:
    """Read a number that may have a unit. Raises SchemaError, which says what was expected."""
    unit = units.get(text[-1:].lower(), 0)
    number = text[:-1] if unit else text

    if not number.replace(".", "", 1).isdecimal() or len(number) > 15:
        raise SchemaError("%.40r is not %s" % (text, what))
    return float(number) * (unit or 1)


def duration(text: str) -> float:
    """Read a duration: "90", "90s", "15m", "6h", "7d" are seconds."""
    return with_unit(text, {"s": 1, "m": 60, "h": 3600, "d": 86400}, "a duration; say 90, 90s, 15m, 6h or 7d")


def size(text: str) -> int:
    """Read a size: "4096", "500k", "10M", "2G" are bytes."""
    return int(with_unit(text, {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}, "a size; say 4096, 500k, 10M or 2G"))


def count(text: str) -> int:
    """Read a number, 0 or more."""
    if not text.isdecimal() or len(text) > 9:
        raise SchemaError("%.40r is not a number from 0 to 999999999" % text)
    return int(text)


def queue_and_slots(text: str) -> "Tuple[str, Optional[int]]":
    """Read the name of a queue, and after a colon how many of its jobs may run at once: "gpu", "gpu:2"."""
    name, colon, slots = text.partition(":")
    return name, count(slots) if colon else None


def assignment(text: str) -> "Tuple[str, str]":
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise SchemaError("it takes NAME=VALUE, not %r" % text)
    return name, value


def read_path(text: str) -> str:
    """Read a path."""
    return os.fsdecode(to_bytes("a path", text))


def write(stream: "Any", text: str, end: str = "\n") -> None:
    """Write text, with what the stream's encoding lacks as escapes: a C locale is no reason to fail."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)


def say(text: str) -> None:
    write(sys.stdout, text)


def complain(text: str) -> None:
    write(sys.stderr, "nodejobs: " + printable(text))


def say_json(value: "Any") -> None:
    """Print a record as JSON, or a list of them, a line for each."""
    if isinstance(value, list):
        say("[%s]" % ",\n ".join([to_json(record) for record in value]))
    else:
        say(to_json(value))


def say_json_of(records: "List[JobRecord]", several: bool) -> None:
    """Print what came of one job, if it is known, or of several."""
    if several:
        say_json(records)
    elif records:
        say_json(records[0])


def width_of(text: str) -> int:
    """Return how many columns a terminal needs for printable text."""
    if all(char < "\u0300" for char in text):
        return len(text)
    from unicodedata import combining, east_asian_width
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """Cut printable text to a number of columns, if it has more."""
    if width_of(text) <= width:
        return text
    text = text[:max(width, 0)]
    while text and width_of(text) >= width:
        text = text[:-1]
    return text + "~"


def fit(text: str, width: int) -> str:
    """Pad or cut printable text to a number of columns."""
    text = cut(text, width)
    return text + " " * (width - width_of(text))


def terminal_width(stream: "Any" = None, without: int = 1000000) -> int:
    """Return the columns to fill: $COLUMNS, else the terminal's; `without` a terminal there is no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or 80
    except (OSError, ValueError):
        return without


def coloured(status: str, text: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return "\033[%sm%s\033[0m" % (COLOURS.get(status, "36"), text)


def human_seconds(seconds: "Optional[float]") -> str:
    """Write a duration for eyes: 3.2s, 1m05s, 2h03m, 3d04h; "" if it is not known."""
    if seconds is None or not 0 <= seconds < 1e12:
        return ""
    if seconds < 60:
        return "%.1fs" % seconds
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return "%dd%02dh" % (days, hours % 24)
    if hours:
        return "%dh%02dm" % (hours, minutes % 60)
    return "%dm%02ds" % (minutes, seconds % 60)


def local_time(text: "Optional[str]") -> str:
    """Write a record's time as local time; "" if it is not known."""
    seconds = epoch_time(text)
    try:
        return text or "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):  # with 32 bits there is no time after 2038
        return str(text)


def command_text(command: "Any") -> str:
    """Write a command as a shell would take it."""
    return " ".join([platform.quote(str(word)) for word in command]) if isinstance(command, list) else str(command)


def state_of(record: JobRecord) -> str:
    """Say a record's status, and whether the command is suspended, or what it waits for."""
    text = str(record.status or "unknown") + (", suspended" if record.suspended else "")
    if record.ended and record.left_behind:
        text += ", %d left behind" % len(record.left_behind)
    if record.waits_for:
        text += ", after " + ", ".join(record.waits_for)
    elif record.position:
        text += ", %d in %s" % (record.position, record.queue)
    return text


def row_of(record: JobRecord, first: str, last: str) -> "List[str]":
    """Return the cells of a record's row in a table; what stands in the first and the last is the caller's matter."""
    exit_code = "" if record.exit_code is None else str(record.exit_code)
    return [first,
            state_of(record),
            record.signal or exit_code,
            human_seconds(record.duration),
            local_time(record.started_at),
            last]


def say_table(titles: str, rows: "List[List[str]]") -> None:
    """Print a table, no wider than the terminal. Each of its first two columns takes a fifth of that, if need be."""
    cells = [titles.split()]
    for row in rows:
        cells.append([printable(cell) or "-" for cell in row])
    first, second, *others = [max(map(width_of, column)) for column in zip(*cells)]

    room = terminal_width()
    most = max(room // 5, min(room // 3, NARROW))
    first, second = min(first, most), min(second, most)
    rest_room = room - first - second - 4

    for number, row in enumerate(cells):
        state = fit(row[1], second)
        if number:
            state = coloured(row[1].partition(",")[0], state)
        rest = "  ".join(map(fit, row[2:], others)).rstrip()
        say("  ".join([fit(row[0], first), state, cut(rest, rest_room)]))


def usual_of(jobs: Jobs, record: JobRecord) -> "Optional[float]":
    """Return the median duration of a running job's finished runs; None if it does not run, or none has finished."""
    if record.status not in ACTIVE or record.duration is None:
        return None
    finished = [run for run in jobs.history(record.self_id) if run.status == FINISHED]
    durations = sorted([run.duration for run in finished if run.duration is not None])
    return durations[len(durations) // 2] if durations else None


def progress(record: JobRecord, usual: float) -> str:
    """Draw how far a running job is, and say the time left."""
    done = record.duration / max(usual, 0.001)
    bar = "#" * int(min(done, 1) * 20)

    left = "usually it takes " + human_seconds(usual)
    if done < 1:
        left = "%d%%, about %s left" % (done * 100, human_seconds(usual - record.duration))
    return "[%s] %s" % (bar.ljust(20, "-"), left)


def one_line(record: JobRecord) -> str:
    """Say in one line how a job stands."""
    text = "%s: %s" % (record.self_id, state_of(record))
    if record.error:
        text += ": " + record.error
    elif record.signal:
        text += " by " + record.signal

    text += " (run %s" % record.run
    if not record.ended and record.status != QUEUED:
        text += ", pid %s" % record.last_pid
    elif record.ended and record.duration is not None:
        text += ", " + human_seconds(record.duration)
    return text + ")"


def end_of(path: str) -> "Tuple[int, bytes]":
    """Return a bounded piece of a log's end, and where it begins."""
    begin, found = max(end_of_log(path) - TAIL_BYTES, 0), b""
    for part, _, _ in read_log(path, begin):
        found += part
        if not part or len(found) >= TAIL_BYTES:
            break
    return begin, found


def error_tail(record: JobRecord, room: int) -> "List[str]":
    """Return the newest lines of stderr, safe to print and cut to so many columns, if the run failed."""
    if record.status not in (FAILED, FAILED_START):
        return []
    try:
        begin, raw = end_of(record.stdout_path if record.merge else record.stderr_path)
    except OSError:
        return []
    if not raw:
        return []

    import re
    text = re.sub(ESCAPES, "", raw.decode("utf-8", "replace"))

    # What a carriage return overwrites is not seen on a terminal either.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    if begin:
        lines[0] = printable(lines[0][-room:])[-room:]  # of a line that began before, the end is the newest
    return [cut(printable(line[:room + 1]), room) for line in lines[-TAIL_LINES:]]


def start_exit_code(record: JobRecord) -> int:
    """Return what `run` exits with when it does not wait."""
    if record.status != FAILED_START:
        return EXIT_ERROR if record.status == LOST else 0
    missing = record.exit_code == EXIT_NOT_FOUND or (  # not its directory
        record.errno == errno.ENOENT and str(record.error)[:15] == "cannot execute ")
    return EXIT_NOT_FOUND if missing else EXIT_CANNOT_EXECUTE


def job_exit_code(record: JobRecord) -> int:
    """Return what `wait` exits with: the job's own code, 128+N for signal N; what is no success is never 0."""
    if not record.ended:
        return EXIT_TIMEOUT if record.status else EXIT_ERROR
    if record.status == FAILED_START:
        return start_exit_code(record)
    if record.signal is not None:
        try:
            return EXIT_SIGNAL + signal_number(record.signal[3:])
        except SchemaError:
            return EXIT_ERROR
    if record.exit_code is None:
        return EXIT_ERROR
    return EXIT_TIMEOUT if record.status == FAILED and record.exit_code == 0 else int(record.exit_code)


def show(record: JobRecord, with_errors: bool) -> None:
    """Print in one line how a job stands; on stderr the end of its own, if it failed."""
    say(printable(one_line(record)))
    sys.stdout.flush()
    for line in error_tail(record, max(terminal_width(sys.stderr, 504) - 4, 20)) if with_errors else ():
        write(sys.stderr, "  | " + line)


def did_you_mean(word: str, known: "Iterable[str]") -> str:
    """Name the known word that the user may have meant, if there is one, and if it is not one that ends or deletes."""
    try:
        from difflib import get_close_matches
    except ImportError:  # a minimal Python
        return ""
    meant = get_close_matches(word, [other for other in known if other not in ("stop", "remove", "prune")], 1)
    return "; did you mean %r?" % meant[0] if meant else ""


def tell_error(error: NodejobsError) -> int:
    """Say what could not be done; return the exit code."""
    complain(str(error))
    return EXIT_USAGE if isinstance(error, SchemaError) else EXIT_ERROR


def seen_to_end(latest: "Any", record: JobRecord) -> "Any":
    """Return what the last look at a run has seen. Raises NodejobsError if it was removed before its end."""
    if latest is None:
        raise NodejobsError("run %s of %s was removed before it was seen to end" % (record.run, record.self_id))
    return latest


def bar_of(record: JobRecord, usual: float) -> str:
    room = terminal_width(sys.stderr) - 1
    name = fit(printable(record.self_id), room // 3).rstrip()
    return fit("%s: %s" % (name, progress(record, usual)), room).rstrip()


def wait_for(jobs: Jobs, record: JobRecord, deadline: float = FOREVER) -> "Any":
    """Wait for the end of a run, and return its record then, or at the deadline.

    Where stderr is a terminal, and the usual duration known, draw the progress there.
    """
    usual = usual_of(jobs, record) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
    latest, erase = None, ""
    try:
        for latest in Watched(jobs, record).looks(deadline, FOREVER if usual is None else 1.0):
            if usual is not None and latest is not None and latest.status in ACTIVE:
                erase = "\r\033[K"
                write(sys.stderr, "\r%s\033[K" % bar_of(latest, usual), end="")
                sys.stderr.flush()
    except KeyboardInterrupt:
        write(sys.stderr, erase, end="")
        complain("no longer waiting for %s, which goes on" % record.self_id)
        raise
    write(sys.stderr, erase, end="")
    sys.stderr.flush()
    with Translate("read", jobs.db_path):
        jobs.queue.place([seen_to_end(latest, record)])
    return latest


def copy_logs(follower: Follower, record: JobRecord, outputs: "Mapping[str, Any]") -> bool:
    """Write what has come to the outputs, and to stderr what was done to a log; tell whether one is gone."""
    gone = False
    for name, kind, content in follower.read(record):
        if kind == name:
            outputs[name].write(content)
        outputs[name].flush()
        if kind != name:
            complain(content)
        gone = gone or kind == GONE
    return gone


def follow(jobs: Jobs, record: JobRecord, outputs: "Mapping[str, Any]", lines: "Optional[int]") -> "Any":
    """Copy output as it comes until the run has ended; return its record then."""
    import select
    readers = select.poll() if hasattr(select, "poll") else None
    for raw in outputs.values():
        if readers and os.fstat(raw.fileno()).st_mode & 0o170000 in (0o010000, 0o140000):  # a pipe, a socket
            readers.register(raw.fileno(), 0)  # errors and hang-ups are always told

    follower, latest = Follower(jobs.store, record, places_in(record, lines), outputs), None
    try:
        for latest in Watched(jobs, record).looks(every=FOLLOW_SECONDS):
            if readers and readers.poll(0):
                raise BrokenPipeError
            if latest is not None:
                copy_logs(follower, latest, outputs)
    except KeyboardInterrupt:
        complain("no longer following %s, which goes on" % record.self_id)
        raise
    return seen_to_end(latest, record)


def tell_freshness(record: JobRecord, before: "Any", cwd: "Optional[str]") -> None:
    """Say that nothing was started, or why something was, though the last run finished."""
    if record.fresh:
        state = "fresh" if record.ended else "still %s" % record.status
        complain("%s is %s; nothing was started" % (record.self_id, state))
        return
    if before is None or before.status != FINISHED:
        return

    other = None
    if before.command != record.command:
        other = "command: " + command_text(before.command)
    elif cwd is not None and before.cwd != record.cwd:
        other = "directory: " + before.cwd
    if other:
        complain("%s is not fresh: its last run had another %s" % (record.self_id, other))


def verb_run(jobs: Jobs, options: "Any") -> int:
    if bool(options.words) == (options.c is not None):
        raise SchemaError("say what to run: either -- COMMAND and its arguments, or -c 'shell line'")
    if options.follow and options.json:
        raise SchemaError("--follow shows the output itself; take either that or --json")

    before = None
    if options.fresh is not None and options.id:
        before = jobs.get_status(options.id)
    queue, slots = options.queue or (None, None)

    record = jobs.run(options.words or options.c, options.id, options.cwd, dict(options.env),
                      startsecs=options.startsecs, timeout=options.timeout,
                      fresh_for=options.fresh,
                      merge=options.merge, max_log=options.max_log,
                      queue=queue, slots=slots, first=options.first,
                      after=options.after, after_ok=options.after_ok)
    if not options.json:
        tell_freshness(record, before, options.cwd)

    if record.status == QUEUED and record.error and (options.follow or options.wait):
        complain(record.error)
    if options.follow:
        record = follow(jobs, record, {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}, None)
        complain(one_line(record))
        return job_exit_code(record)
    if options.wait:
        record = wait_for(jobs, record)

    if options.json:
        say_json(record)
    else:
        show(record, with_errors=True)
    if options.wait:
        return job_exit_code(record)
    if record.status == LOST:  # its monitor was killed as it started the command
        complain("%s was started, and nobody can tell what became of it" % record.self_id)
    return start_exit_code(record)


def verb_wait(jobs: Jobs, options: "Any") -> int:
    deadline = time.monotonic() + (FOREVER if options.timeout is None else options.timeout)
    found = {job_id: jobs.wait(job_id, 0) for job_id in options.words}

    def wait(job_id: str) -> "Any":
        record = wait_for(jobs, known(found[job_id], job_id, None, jobs.db_path), deadline)
        if record.status in ACTIVE:
            complain("gave up after %s; %s goes on" % (human_seconds(options.timeout), job_id))
        return record
    options.words.sort(key=lambda job_id: found[job_id] is not None)  # what is not there is told at once
    return each(options, wait, waited=True)


def find(jobs: Jobs, options: "Any") -> "Any":
    """Return the record of the job and run that the command line names."""
    return known(jobs.get_status(options.words[0], options.run), options.words[0], options.run, jobs.db_path)


def why_queued(jobs: Jobs, record: JobRecord) -> "Optional[str]":
    """Say what a queued job waits for, but for other jobs, which its state names."""
    queue = jobs.queues().get(record.queue)
    if queue is not None and queue.error:
        return "of the queue %s, %s" % (queue.queue, queue.error)
    if queue is not None and queue.paused:
        return "the queue %s was paused by %s; `queue resume %s` lets it go on" % (
            queue.queue, queue.paused_by, queue.queue)

    is_full = queue is not None and len(queue.running) >= queue.slots
    if record.waits_for or is_full:
        return None
    return "it is due; if nobody was there to start it, `queue start` does, and any run, wait or stop"


def why(jobs: Jobs, record: JobRecord) -> "Optional[str]":
    """Say in words why a job stands as it does; None if there is nothing to say."""
    if record.status in (RUNNING, STOPPING) and record.monitored is False:
        return "its monitor was killed, so its exit code will not be known"
    reason: "Optional[str]" = record.error
    if record.status == QUEUED and not reason:
        return why_queued(jobs, record)
    return reason


def exit_text(code: int) -> str:
    """Write an exit code, with what a shell means by it: 137 is 128 + 9, for SIGKILL."""
    name = signal_name(code - EXIT_SIGNAL) if code > EXIT_SIGNAL else ""
    if not name or name[3:].isdecimal():
        return str(code)
    return "%d, as a shell says that %s ended its command" % (code, name)


# The fields that `status` shows, and how those are written that are no plain text or number.
SHOWN = ("exit_code signal stopped_by stop_signal command cwd run queue queued_at started_at ended_at duration timeout "
         "cpu_seconds max_rss_kb dropped_bytes last_pid user host merge stdout_path stderr_path").split()
WRITERS: "Dict[str, Any]" = {
    "exit_code": exit_text, "command": command_text,
    "queued_at": local_time, "started_at": local_time, "ended_at": local_time,
    "duration": human_seconds, "timeout": human_seconds, "cpu_seconds": human_seconds}


def next_verbs(record: JobRecord) -> str:
    """Write what one may want to call next."""
    word = command_text(["--", record.self_id] if record.self_id[0] == "-" else [record.self_id])
    verbs = ["logs"] if record.ended else ["logs -f", "wait", "stop"]
    return ", ".join(["%s %s" % (verb, word) for verb in verbs])


def facts_of(jobs: Jobs, record: JobRecord) -> "Dict[str, Any]":
    """Return what `status` shows of a record, by title; None and False are not worth a line."""
    facts: "Dict[str, Any]" = {"why": why(jobs, record)}
    usual = usual_of(jobs, record)
    if usual is not None:
        facts["progress"] = progress(record, usual)

    added = [key for key in record if key not in JobRecord.fields]  # by a subclass
    for key in SHOWN + added:
        facts[key] = record.get(key)

    # `stop` ends what was left behind, whichever run it is of.
    ended = [run for run in jobs.history(record.self_id) if run.ended]
    left = [str(pid) for run in ended for pid, _ in run.left_behind or ()]
    facts["left behind"] = ", ".join(left) or None
    return facts


def verb_status(jobs: Jobs, options: "Any") -> int:
    """Show everything about a job."""
    record = find(jobs, options)
    if options.json:
        say_json(record)
        return 0

    state = coloured(record.status, printable(state_of(record)))
    say("%s: %s" % (printable(record.self_id), state))

    facts = facts_of(jobs, record)
    for key in facts:
        if facts[key] is not None and facts[key] is not False:
            title = key.replace("_", " ")
            text = WRITERS.get(key, str)(facts[key])
            say("  %-13s  %s" % (printable(title), printable(text)))

    title = "last lines"
    room = max(terminal_width(without=519) - 19, 20)
    for line in error_tail(record, room):
        say("  %-13s  | %s" % (title, line))
        title = ""
    say("  %-13s  %s" % ("next", printable(next_verbs(record))))
    return 0


def filter_of(options: "Any") -> "Dict[str, Any]":
    """Return the filter that --status and --id stand for."""
    wanted: "Dict[str, Any]" = {}
    if options.status:
        wanted["status"] = ",".join(options.status).split(",")
    if options.id:
        wanted["self_id"] = options.id
    return wanted


def list_order(record: "Any") -> "Any":
    """Sort what was started last, then what is queued in its order, last."""
    since = record.started_at or record.last_update or ""
    return record.status == QUEUED, record.position or 1 << 31, since, record.self_id


def verb_list(jobs: Jobs, options: "Any") -> int:
    """Show all jobs, or those that the filter names."""
    wanted = filter_of(options)
    records = sorted(jobs.list_status(wanted).values(), key=list_order)
    if options.n is not None:
        records = records[max(len(records) - options.n, 0):]

    if options.json:
        say_json(records)
    elif options.q:
        for record in records:
            say(printable(record.self_id))
    elif records or options.n == 0:
        say_table(LIST_TITLES, [
            row_of(record, record.self_id, command_text(record.command)) for record in records])
    else:
        what = "such jobs" if wanted else "jobs"
        complain("no %s in %s; `run -- COMMAND` starts one" % (what, jobs.db_path))
    return 0


def verb_history(jobs: Jobs, options: "Any") -> int:
    """Show the runs of a job."""
    job_id, = options.words
    records = known(jobs.history(job_id) or None, job_id, None, jobs.db_path)
    if options.json:
        say_json(records)
    else:
        say_table(HISTORY_TITLES, [
            row_of(record, str(record.run), record.error or "") for record in records])
    return 0


def verb_logs(jobs: Jobs, options: "Any") -> int:
    import io
    if options.f and options.json:
        raise SchemaError("-f shows the output itself; take either that or --json")
    record = find(jobs, options)
    outputs: "Dict[str, Any]" = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    if options.stdout != options.stderr:
        outputs = {"stdout" if options.stdout else "stderr": sys.stdout.buffer}
    if options.f:
        follow(jobs, record, outputs, options.n)
        return 0

    code, answer = 0, {"self_id": record.self_id, "run": record.run}
    for name in outputs:
        raw = io.BytesIO() if options.json else outputs[name]
        follower = Follower(jobs.store, record, places_in(record, options.n), [name])
        gone = copy_logs(follower, record, {name: raw})
        code = EXIT_ERROR if gone else code
        if options.json:
            answer[name] = None if gone else raw.getvalue().decode("utf-8", "replace")
    known(jobs.store.again(record), record.self_id, record.run, jobs.db_path)
    if options.json:
        say_json(answer)
    return code


def each(options: "Any", act: "Any", done: str = "", waited: bool = False) -> int:
    """Do something to every job named, show what came of it, and go on after an error; return the exit code."""
    records, code = [], 0
    for job_id in options.words:
        try:
            record = act(job_id)
        except NodejobsError as error:
            told = tell_error(error)
            code = code or told
            continue
        records.append(record)
        code = code or (job_exit_code(record) if waited else 0)
        if options.json:
            continue
        tell_rest(record)
        if done:
            say("%s: %s" % (printable(job_id), done))
        else:
            show(record, with_errors=waited)

    if options.json:
        say_json_of(records, len(options.words) > 1)
    return code


def tell_rest(record: JobRecord) -> None:
    """Say what else has ended with a job that was stopped, and what stays of one that was removed."""
    if record.ended_pids:
        complain("%s: ended what it had left behind: pid %s" % (
            record.self_id, ", ".join(map(str, record.ended_pids))))
    for path in record.foreign or ():
        complain("%s stays: nodejobs did not make it" % path)


def verb_stop(jobs: Jobs, options: "Any") -> int:
    results = jobs._stop(options.words, options.grace, options.signal)

    def stopped(job_id: str) -> "Any":
        if isinstance(results[job_id], NodejobsError):
            raise results[job_id]
        return known(results[job_id], job_id, None, jobs.db_path)
    return each(options, stopped)


def verb_remove(jobs: Jobs, options: "Any") -> int:
    return each(options, jobs.remove, "removed")


QUEUE_ACTIONS = {"list": "", "pause": "NAME", "resume": "NAME[:SLOTS]", "first": "ID", "start": ""}


def queue_row(queue: "Any") -> "List[str]":
    """Return the cells of a queue's row in the table of queues."""
    state = "paused by %s" % queue.paused_by if queue.paused else "open"
    return [queue.queue,
            queue.error or state,
            "%d/%d" % (len(queue.running), queue.slots),
            ", ".join(queue.running),
            ", ".join(queue.waiting)]


def verb_queue(jobs: Jobs, options: "Any") -> int:
    action, *names = options.words
    takes = QUEUE_ACTIONS.get(action)
    if takes is None or len(names) != bool(takes):
        known_actions = [("%s %s" % pair).rstrip() for pair in QUEUE_ACTIONS.items()]
        raise SchemaError("queue takes " + ", ".join(known_actions))

    if action == "first":
        options.words = names
        return each(options, jobs.first)

    # What went wrong is told, and then how the queues stand all the same.
    code = 0
    for problem in jobs.start_due().values() if action == "start" else ():
        complain(problem)
        code = EXIT_ERROR

    if action == "pause":
        queues = [jobs.pause(names[0])]
    elif action == "resume":
        queues = [jobs.resume(*queue_and_slots(names[0]))]
    else:
        queues = list(jobs.queues().values())

    if options.json:
        say_json(queues[0] if takes else queues)
    elif queues:
        say_table(QUEUE_TITLES, [queue_row(queue) for queue in queues])
    else:
        complain("no queues in %s yet; `run --queue NAME -- COMMAND` makes one" % jobs.db_path)
    return code


def verb_prune(jobs: Jobs, options: "Any") -> int:
    removed = jobs.prune(options.older_than, options.keep, filter_of(options))

    for record in removed:
        tell_rest(record)
    for record in jobs.spared:
        complain(str(JobRunning(record, "not removed")))
    if options.json:
        say_json(removed)
    else:
        say("removed %d run%s" % (len(removed), "" if len(removed) == 1 else "s"))
    return 0


# An option is a flag, what it takes ("" for nothing), how that is read, the default, and its help. With a list
# as default it may be given several times.
DB = ("--db", "DIR", read_path, None, "where the jobs are kept; default $NODEJOBS_DB, or $XDG_STATE_HOME/nodejobs, "
                                "or ~/.local/state/nodejobs (Windows: %LOCALAPPDATA%\\nodejobs)")
HELP = ("--help", "", None, False, "show this")
VERSION = ("--version", "", None, False, "show the version")
JSON = ("--json", "", None, False, "print JSON and nothing else")
RUN_NUMBER = ("--run", "N", count, None, "this run of it; default the newest")
STATUS: "Option" = ("--status", "S", str, [], "only these: running, or failed,lost or 'fail*'")
ID_GLOB = ("--id", "GLOB", str, None, "only ids like 'backup-*'")

# verb: (function, what it does, what it takes, its options, examples)
VERBS: "Dict[str, Tuple[Any, str, str, Sequence[Option], Sequence[str]]]" = {
    "run": (verb_run, "start a command", "-- COMMAND [ARGUMENT]...", [
        ("--id", "ID", str, None, "the job's id; by default one is made up"),
        ("-c", "LINE", str, None, "a shell command line, instead of a command; write >&2 in it, as > /dev/stderr "
                                  "empties the log"),
        ("--cwd", "DIR", read_path, None, "working directory of the command"),
        ("--env", "NAME=VALUE", assignment, [], "set an environment variable; may be repeated"),
        ("--fresh", "AGE", duration, None, "start nothing if the last run finished within this time, or runs now"),
        ("--timeout", "TIME", duration, None, "end its whole tree after this time: 90s, 15m, 1h; what it leaves "
                                            "behind when it ends earlier is not limited"),
        ("--startsecs", "TIME", duration, STARTSECS, "watch for an early end so long; default %ss" % STARTSECS),
        ("--queue", "NAME[:SLOTS]", queue_and_slots, None, "start it when its turn in this queue has come, in which "
                                                           "SLOTS (at first 1) may run at once"),
        ("--first", "", None, False, "put it at the front of its queue"),
        ("--after", "ID", str, [], "start it when that job has ended, however; may be repeated"),
        ("--after-ok", "ID", str, [], "start it when that job has finished, else never; may be repeated"),
        ("--merge", "", None, False, "stderr goes to stdout.log too, in order"),
        ("--max-log", "SIZE", size, None, "keep the newest so much of its output: 500k, 10M"),
        ("--wait", "", None, False, "wait for its end, and exit with its exit code"),
        ("--follow", "", None, False, "show its output until its end, and exit with its exit code")],
        ["run --id sync -- rsync -a src/ dst/", "run --id build -c 'make && make install'",
         "run --id backup --fresh 6h --timeout 1h --wait -- ./backup.sh",
         "run --id upload --queue net:2 --after-ok backup -- rsync -a src/ dst/"]),

    "status": (verb_status, "show everything about a job", "ID", [RUN_NUMBER],
               ["status backup", "status backup --run 3", "status backup --json"]),

    "list": (verb_list, "show all jobs, the last started last", "", [
        STATUS, ID_GLOB, ("-n", "N", count, None, "only the last N"),
        ("-q", "", None, False, "print ids only, one a line, with what cannot be printed as escapes")],
        ["list", "list --status failed,lost", "list --id 'backup-*' -n 5 --json"]),

    "logs": (verb_logs, "print what a job wrote, byte for byte, stdout to stdout and stderr to stderr", "ID", [
        RUN_NUMBER,
        ("--stdout", "", None, False, "only its stdout"),
        ("--stderr", "", None, False, "only its stderr (to stdout)"),
        ("-f", "", None, False, "follow it: go on until it has ended"),
        ("-n", "LINES", count, None, "only the last lines of each")],
        ["logs backup", "logs -f backup", "logs backup --stderr -n 20", "logs backup --run 3 > old.txt"]),

    "wait": (verb_wait, "wait for jobs to end; exit with the first exit code that is not 0", "ID...", [
        ("--timeout", "TIME", duration, None, "give up after this time, with exit code 124")],
        ["wait backup", "wait build test --timeout 15m && echo both are fine"]),

    "stop": (verb_stop, "end all processes of jobs", "ID...", [
        ("--grace", "TIME", duration, GRACE, "kill what is left after this time; default %gs" % GRACE),
        ("--signal", "NAME", str, "TERM", "ask by this signal first; default TERM")],
        ["stop backup", "stop web worker --grace 30s --signal INT"]),

    "queue": (verb_queue, "list queues, pause or resume one (resume NAME:SLOTS makes it), put a job first, start what "
                          "is due", "ACTION [NAME]", [],
              ["queue list", "queue pause net", "queue resume net:3"]),

    "history": (verb_history, "show the runs of a job, the newest last", "ID", [],
                ["history backup", "history backup --json"]),

    "remove": (verb_remove, "delete jobs that have ended, or wait in a queue, with their logs", "ID...", [],
               ["remove backup"]),

    "prune": (verb_prune, "delete old runs, and jobs of which none is left", "", [
        ("--older-than", "AGE", duration, None, "those that ended longer ago than this: 30d"),
        ("--keep", "N", count, None, "those beyond the newest N of each job"),
        STATUS, ID_GLOB],
        ["prune --older-than 30d", "prune --keep 3 --id 'backup-*'"])}


def program_name() -> str:
    """Return how the user called us, to show in help."""
    name = os.path.basename(sys.argv[0])
    return name if name.isidentifier() else platform.python_name + " nodejobs.py"


def entries(pairs: "Iterable[Tuple[str, str]]") -> str:
    """Write titles, each with its text beside it, within 80 columns."""
    import textwrap
    return "".join([textwrap.fill(text, 80, initial_indent="  %-20s " % title, subsequent_indent=" " * 23,
                                  break_on_hyphens=False) + "\n" for title, text in pairs])


def option_help(options: "Sequence[Option]") -> str:
    return entries([((flag + " " + takes).rstrip(), text) for flag, takes, _, _, text in options])


def example_help(examples: "Sequence[str]") -> str:
    return "examples:\n" + "".join(["  %s %s\n" % (program_name(), line) for line in examples])


def main_help() -> str:
    return "\n".join([
        "usage: %s [--db DIR] VERB ...\n" % program_name(),
        "Run, track, log and stop external commands, without a daemon.\n",
        entries([(verb, VERBS[verb][1]) for verb in VERBS]),
        option_help([DB, JSON, HELP, VERSION]),
        "exit codes: 0; 2 usage; 125 nodejobs could not do it; 124 timed out waiting;",
        "126 or 127 the command could not be started; of `wait` and `run --wait`, the",
        "job's own\n",
        example_help(["run --id hello -- echo 'hello, world'", "list", "logs hello", "run --help"])])


def verb_help(verb: str) -> str:
    _, text, takes, options, examples = VERBS[verb]
    return "\n".join([
        "usage: %s %s [OPTION]... %s\n" % (program_name(), verb, takes),
        text[0].upper() + text[1:] + ".\n",
        option_help([*options, JSON, DB, HELP]),
        example_help(examples)])


class Options:
    """What `parse` has read: the options as attributes, and the other `words`."""


def attribute(flag: str) -> str:
    """Name the attribute of Options that holds an option: after_ok for --after-ok."""
    return flag.lstrip("-").replace("-", "_")


def parse(words: "Sequence[str]", known: "Sequence[Option]", intermixed: bool) -> "Any":
    """Read a command line. Unless options and other words are intermixed, the first other word ends the options."""
    # Ours, because argparse and getopt import regular expressions, gettext and more: on a small
    # machine they would cost every call more than all the rest.
    flags = {option[0]: option for option in known}
    flags["-h"] = HELP

    found: "Any" = Options()
    for flag, _, _, default, _ in known:
        setattr(found, attribute(flag), default)

    others = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word[:1] != "-" or word == "-":
            others.append(word)
            if intermixed:
                continue
            break

        flag, equals, value = word.partition("=")
        if word[:2] != "--":
            flag, equals, value = word[:2], word[2:], word[2:]
        if flag not in flags:
            raise SchemaError("there is no option %s%s" % (flag, did_you_mean(flag, flags)))

        flag, takes, read, default, _ = flags[flag]
        if equals and not takes:
            raise SchemaError("%s takes no value" % flag)

        given: "Any" = True
        try:
            if takes:
                given = read(value if equals else next(rest))
        except StopIteration:
            raise SchemaError("%s takes %s" % (flag, takes)) from None
        except SchemaError as error:
            raise SchemaError("%s: %s" % (flag, error)) from None

        if isinstance(default, list):
            given = getattr(found, attribute(flag)) + [given]
        setattr(found, attribute(flag), given)

    found.words = others + list(rest)
    return found


def do_verb(verb: str, words: "Sequence[str]", top: "Any") -> int:
    """Do what a verb and the words after it say; return the exit code. `top`: the options before the verb."""
    function, _, takes, known, _ = VERBS[verb]
    options = parse(words, [*known, JSON, DB, HELP], intermixed=verb != "run")
    if options.help:
        sys.stdout.write(verb_help(verb))
        return 0

    # `run` knows best what it lacks.
    too_few = takes and verb != "run" and not options.words
    too_many = takes in ("", "ID") and len(options.words) > len(takes.split())
    if too_few or too_many:
        given = ", not %r" % " ".join(options.words) if too_many else ""
        raise SchemaError("%s takes %s%s" % (verb, takes or "no more words", given))

    options.json = options.json or top.json
    db_path = top.db if options.db is None else options.db
    code: int = function(Jobs(db_path), options)
    sys.stdout.flush()
    return code


def dispatch(words: "List[str]") -> int:
    """Do what the command line says; return the exit code."""
    # What stands before the verb.
    top = parse(words, [DB, JSON, HELP, VERSION], intermixed=False)
    if top.version:
        say("nodejobs " + __version__)
        return 0
    if top.help or not top.words:
        (sys.stdout if top.help else sys.stderr).write(main_help())
        return 0 if top.help else EXIT_USAGE

    verb = top.words[0]
    if verb == "help":
        return dispatch(top.words[1:2] + ["--help"])
    if verb not in VERBS:
        raise SchemaError("there is no verb %r; there are %s%s" % (verb, ", ".join(VERBS),
                                                                   did_you_mean(verb, VERBS)))

    try:
        return do_verb(verb, top.words[1:], top)
    except SchemaError as error:
        raise SchemaError("%s; see `%s %s --help`" % (error, program_name(), verb)) from None


def given_words() -> "List[str]":
    """Return the words of our command line; in a C locale, Python 3.6 and PyPy read them as ASCII."""
    words = sys.argv[1:]
    if sys.getfilesystemencoding() == "ascii":
        words = [to_bytes("an argument", word).decode("utf-8", "surrogateescape") for word in words]
    return words


def give_up_output() -> None:
    """See that what Python still holds back for our stdout does not raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: "Optional[List[str]]" = None) -> int:
    """Run the command line; return its exit code (0, 2, 124 to 127, or a job's own)."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, open(os.devnull, "w"))
    platform.prepare_output()

    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the exit codes of our children are lost
    except (AttributeError, ValueError):
        pass  # Windows has none, and only the main thread may set it

    try:
        return dispatch(given_words() if argv is None else argv)
    except NodejobsError as error:
        return tell_error(error)
    except BrokenPipeError:  # whoever read our output has enough
        give_up_output()
        return EXIT_SIGNAL + SIGPIPE
    except OSError as error:
        what = "use %s" % error.filename
        if error.filename is None:  # what we read has a name, or is a StoreError
            give_up_output()
            what = "write the output"
        complain("cannot %s: %s" % (what, error.strerror))
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_SIGNAL + int(signal.SIGINT)
    finally:
        sys.stdout, sys.stderr = before


# The original nodejobs was a package: `from nodejobs.jobs import Jobs` and `from nodejobs.jobdb import
# JobRecord` go on working. (An import of a.b imports a and then looks for a.b in sys.modules.)
for _part in ("jobs", "jobdb") if __name__ in sys.modules and __name__ != "__main__" else ():
    sys.modules[__name__ + "." + _part] = sys.modules[__name__]

if __name__ == "__main__":
    sys.exit(main())
