"""Journals that were damaged: cut, filled, garbled, replaced, or written by a later version.

Each case spoils the journal of the newest of two runs of one job, and asks the library (now and then the
command line) about it and about its three healthy neighbours. What comes back has to be true or has to be
called damaged; and the job can be stopped, run and removed afterwards. All in a pid namespace, with
strangers in it that nothing may kill.
"""
import base64
import contextlib
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import zlib

from harness import ACTIVE, ENDED, Missing, TooLong, attack, cli, contained, end, is_alive, monitors_of, nodejobs
from harness import processes_of, untidy, within

FORMAT = getattr(nodejobs, "FORMAT", 1)
FIELDS = nodejobs.JobRecord.fields
KINDS = ("finished", "failed", "stopped", "failed_start", "lost", "running")
DAMAGED = ("newer nodejobs", "damaged", "cannot be read")
STRANGE = ["null", "true", "-1", "0", "1", "2", "1.5", "1e999", "NaN", "-Infinity", "4194304", "9" * 20, "-" + "9" * 40,
           "9" * 5000, '""', '"monitor"', '"exploded"', '"finished "', '"\\ud800"', '"\\u0000"', '"\\u202e\\u001b[31m"',
           '"../../../etc"', '"%s"' % ("x" * 5000), "[]", '["a",1]', "{}", '{"status":"finished"}', "[[[[]]]]",
           "[" * 300 + "]" * 300, "9" * 400]
LISTS = {"command": ["sh", "-c", "true"], "after": [["a-healthy", 1, None], ["z-healthy", 1, None]], "waits_for": ["a-healthy"],
         "after_ok": [["a-healthy", 1, "0" * 32]], "left_behind": [[99999, 1], [99998, None]]}
NUMBERS = {"exit_code": 0, "duration": 1.5, "cpu_seconds": 0.1, "max_rss_kb": 6000, "max_log": 10000, "timeout": 60.0,
           "errno": 2, "dropped_bytes": 5, "position": 1, "last_pid": 99999, "monitor_pid": 99998, "pid_start": 1,
           "started_clock": 1.5, "pid_mark": 7, "monitor_start": 1}


class Ward:
    """A store with three healthy jobs and a patient, and a stranger in the same pid namespace."""

    def __init__(self, room):
        self.room, self.store = room, room.path / "db"
        self.jobs = nodejobs.Jobs(self.store)
        self.jobs.run(["true"], "a-healthy")
        self.jobs.run("echo why >&2; exit 3", "z-healthy")
        self.jobs.run(["sleep", "100000"], "m-healthy", startsecs=0)
        for job_id in ("a-healthy", "z-healthy"):
            self.jobs.wait(job_id)
        self.neighbours = self.healthy(self.jobs.list_status())
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))

    @staticmethod
    def healthy(records):
        return {job_id: plain(record) for job_id, record in records.items() if job_id.endswith("-healthy")}

    def admit(self, kind):
        """Make a patient of this kind: its first run has finished, its second is the one to damage."""
        self.kind = kind
        self.discharge()
        self.jobs.run(["true"], "patient")
        self.jobs.wait("patient")
        command = {"finished": ["true"], "failed": ["sh", "-c", "echo why >&2; exit 4"],
                   "failed_start": ["/nowhere/at/all"]}.get(kind, ["sleep", "100000"])
        self.logdir = pathlib.Path(self.jobs.run(command, "patient", startsecs=0).logdir)
        if kind == "stopped":
            self.jobs.stop("patient")
        elif kind == "lost":
            end(monitors_of("patient"))
            end([self.jobs.get_status("patient").last_pid])
        elif kind != "running":
            self.jobs.wait("patient")
        self.journal = self.logdir / "journal.jsonl"
        self.blob = self.journal.read_bytes()
        assert self.jobs.get_status("patient").status == kind, self.jobs.get_status("patient")
        self.copy = self.room.path / "copy"
        shutil.rmtree(str(self.copy), ignore_errors=True)
        shutil.copytree(str(self.logdir.parent), str(self.copy))
        self.truths = set()
        lines = self.blob.splitlines(True)
        for number in range(len(lines)):
            self.journal.write_bytes(b"".join(lines[:number + 1]))
            self.truths.add(repr(plain(self.jobs.get_status("patient"))))
        self.journal.write_bytes(self.blob)

    def discharge(self):
        """End and delete the patient, whatever has become of it."""
        keep = set(processes_of(self.store)) - {self.jobs.get_status("m-healthy").last_pid}
        end(monitors_of("patient") + sorted(keep))
        shutil.rmtree(str(self.store / "patient"), ignore_errors=True)

    def readmit(self):
        """Have the patient of this kind again, undamaged."""
        if self.kind == "running":
            return self.admit("running")
        shutil.rmtree(str(self.store / "patient"), ignore_errors=True)
        shutil.copytree(str(self.copy), str(self.store / "patient"))

    def examine(self, blob=None, about=None):
        """Return what is wrong with what the library says of the patient, and of the healthy ones."""
        sound = blob is not None and is_sound(blob)
        with without_json():
            return self._examine(sound, about)

    def _examine(self, sound, about):
        problems, record = [], None
        for verb, ask in (("list_status", self.jobs.list_status), ("get_status", lambda: self.jobs.get_status("patient")),
                          ("history", lambda: self.jobs.history("patient")), ("job_logs", lambda: self.jobs.job_logs("patient"))):
            try:
                with within(15):
                    answer = ask()
            except nodejobs.NodejobsError as error:
                if verb == "list_status":
                    problems.append("list_status raises %r" % error)
                continue
            except (Exception, TooLong) as error:
                problems.append("%s: %s: %.200s" % (verb, type(error).__name__, error))
                if isinstance(error, TooLong):
                    return problems
                continue
            if verb == "list_status":
                if self.healthy(answer) != self.neighbours:
                    problems.append("a healthy job is told otherwise than before")
                record = answer.get("patient")
            elif verb == "get_status" and (answer is None) != (record is None):
                problems.append("list_status and get_status differ: %r, %r" % (record, answer))
        if record is None:
            return problems + ["the damaged job is hidden"]
        error = str(record.error)
        problems += ["%s is %.100r" % (key, record[key]) for key in absurd(record)]
        if record.run != 2:
            problems.append("the damaged run is hidden behind an older one")
        elif record.status == "finished" and self.kind != "finished":
            problems.append("it is told finished, but was " + self.kind)
        elif self.kind == "running" and record.status not in ACTIVE:
            problems.append("its command lives, and it is told %s" % record.status)
        elif record.status not in ACTIVE + ENDED:
            problems.append("its status is %r" % record.status)
        elif about is not None and about not in error:
            problems.append("error says nothing about %r: %r (%s)" % (about, record.error, record.status))
        elif about is None and not sound and repr(plain(record)) not in self.truths:
            if not any(word in error for word in DAMAGED):
                problems.append("neither damaged nor the truth: %.700r" % plain(record))
        return problems

    def treat(self):
        """Stop, run and remove the patient; return what is wrong with that. Then it is whole again."""
        problems = []
        # Younger than the patient, as stop leaves alone what is older than the command.
        stranger = subprocess.Popen(["sleep", "100000"], start_new_session=True, stdin=subprocess.DEVNULL)
        self.jobs.run(["sleep", "100000"], "bystander", startsecs=0)
        others = [stranger.pid, self.jobs.get_status("bystander").last_pid] + monitors_of("bystander")
        pids = [pid for pid in processes_of(self.store) if self.kind == "running" and b"patient" in environ(pid)]
        for verb, act in (("stop", lambda: self.jobs.stop("patient", 2)), ("run", lambda: self.jobs.run(["true"], "patient")),
                          ("wait", lambda: self.jobs.wait("patient", 20)), ("remove", lambda: self.jobs.remove("patient"))):
            try:
                with within(15):
                    record = act()
                if verb == "stop" and any(is_alive(pid) for pid in pids):
                    problems.append("stop does not complain, and the command lives: %.300r" % record)
                    break
                if verb == "wait" and (record is None or record.status != "finished"):
                    problems.append("its next run is told %.300r" % record)
            except nodejobs.NodejobsError as error:
                if self.kind == "running" and verb == "stop" and any(is_alive(pid) for pid in pids):
                    break  # it says that it cannot; so the rest has to be refused
                problems.append("%s: %s: %.300s" % (verb, type(error).__name__, error))
            except (Exception, TooLong) as error:
                problems.append("%s: %s: %.300s" % (verb, type(error).__name__, error))
                if isinstance(error, TooLong):
                    break
        else:
            if self.jobs.get_status("patient") is not None:
                problems.append("it is there after remove: %.300r" % self.jobs.get_status("patient"))
            if self.healthy(self.jobs.list_status()) != self.neighbours:
                problems.append("a healthy job is told otherwise after stop, run, remove")
        if not all(is_alive(pid) for pid in others):
            problems.append("STOP HAS KILLED A STRANGER")
        end(others)
        stranger.wait()
        shutil.rmtree(str(self.store / "bystander"))
        self.readmit()
        return problems

    def ask_cli(self):
        """Return what is wrong with how the command line shows the store."""
        problems = []
        for words in (["list"], ["status", "patient"], ["list", "--json"], ["history", "patient"], ["logs", "patient"]):
            done = cli(self.store, *words)
            problems += ["%s: %s" % (words[0], what) for what in untidy(done, (0,) if words[0] == "list" else (0, 125))]
            if words[0] == "list" and not all(job_id in done.stdout for job_id in (*self.neighbours, "patient")):
                problems.append("`%s` lacks a job" % " ".join(words))
            if words[-1] == "--json" and not done.returncode:
                json.loads(done.stdout)
        return problems

    def write(self, blob):
        self.journal.write_bytes(blob)


@contextlib.contextmanager
def without_json():
    """Be as the command line, where the package json is not loaded: its scanner in C then fails in another way."""
    decoder = sys.modules.pop("json.decoder")
    try:
        yield
    finally:
        sys.modules["json.decoder"] = decoder


def environ(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/%d/environ" % pid).read_bytes()
    return b""


def plain(record):
    """Return a record as a dict of what does not change by itself."""
    return {key: record[key] for key in FIELDS if key != "duration" or record["status"] in ENDED}


def absurd(record):
    """Return the keys that hold what no run has, inside a list or as a number."""
    shapes = {"command": lambda value: isinstance(value, str) or value and all(isinstance(word, str) for word in value),
              "left_behind": lambda value: all(isinstance(pair, list) and type(pair[0]) is int and 1 < pair[0] < 1 << 31 and len(pair) == 2
                                               for pair in value),
              "waits_for": lambda value: record.status == "queued" and all(isinstance(job_id, str) for job_id in value),
              "exit_code": lambda value: 0 <= value < 256, "last_pid": lambda value: 1 < value < 1 << 31,
              "position": lambda value: record.status == "queued" and value > 0}
    shapes["after"] = shapes["after_ok"] = lambda value: all(
        isinstance(run, list) and len(run) == 3 and isinstance(run[0], str) and run[0] and type(run[1]) is int for run in value)
    for key in ("duration", "max_rss_kb", "timeout", "started_clock"):
        shapes[key] = lambda value: 0 <= value < 1e20
    return [key for key, fits in shapes.items() if record.get(key) is not None and not fits(record[key])]


def strict(text):
    raise ValueError("no JSON: " + text)


def is_sound(blob):
    """Tell whether nobody could see that a journal was garbled: every line is an object, and what they add up to is right."""
    lines = [line for line in blob.split(b"\n")[:-1] if line.strip()]
    try:
        entries = [json.loads(line.decode(), parse_constant=strict) for line in lines]
    except (ValueError, RecursionError):
        return False
    if not entries or not all(isinstance(entry, dict) for entry in entries) or entries[0].get("status") != "starting":
        return False
    state = {}
    for entry in entries:
        if entry.get("status") == "failed_start" and "last_pid" in state and "outcome" not in state:
            continue  # rule 4
        state.update(entry)
        if entry.get("status") in ENDED:
            break
    return state["status"] in ACTIVE + ENDED and state.get("outcome", "failed") in ENDED and all(
        FIELDS[key].accepts(state[key]) or state[key] is None for key in state if key in FIELDS)


def with_value(blob, number, key, text):
    """Return a journal where a key of a line has a value, given as JSON text."""
    lines = blob.split(b"\n")
    try:
        entry = json.loads(lines[number].decode("utf-8", "replace"))
        entry[key] = "@@"
        lines[number] = json.dumps(entry, separators=(",", ":")).replace('"@@"', text).encode()
    except (ValueError, TypeError, RecursionError):
        lines[number] = ('{"%s":%s}' % (key, text)).encode()
    return b"\n".join(lines)


def splice(random, blob, piece):
    place = random.randrange(len(blob) + 1)
    return blob[:place] + piece + blob[place + random.choice((0, 0, len(piece))):]


def noise(random, size):
    return bytes(bytearray(random.getrandbits(8) for _ in range(size)))


def shuffled(random, blob):
    lines = blob.splitlines(True)
    random.shuffle(lines)
    return b"".join(lines)


def flipped(random, blob):
    copy = bytearray(blob)
    for _ in range(random.choice((1, 1, 2, 9)) if copy else 0):
        copy[random.randrange(len(copy))] ^= 1 << random.randrange(8)
    return bytes(copy)


def any_value(random, blob):
    key = random.choice(sorted(FIELDS) + ["status", "cookie", "last_pid", "format"])
    return with_value(blob, random.randrange(blob.count(b"\n") + 1), key, random.choice(STRANGE))


def varied(random, value):
    """Return a value like this one, but for one element, or its magnitude; "@@" stands for any strange one."""
    if isinstance(value, list) and value and random.random() < .8:
        place = random.randrange(len(value))
        return value[:place] + random.choice(([], [varied(random, value[place])], [value[place]] * 2)) + value[place + 1:]
    if isinstance(value, (int, float)) and random.random() < .8:
        return random.choice((-1, -value, int(value) + 256, int(value) * 10 ** random.choice((3, 12, 30, 400)), int(value) + (1 << 31), value / 3.0, 0))
    return "@@"


def any_element(random, blob):
    key, value = random.choice(sorted(LISTS.items()) * 2 + sorted(NUMBERS.items()))
    text = json.dumps(varied(random, value)).replace('"@@"', random.choice(STRANGE))
    return with_value(blob, random.randrange(blob.count(b"\n") + 1), key, text)


MUTATIONS = [  # (how often, what it does)
    (9, lambda random, blob: blob[:random.randrange(len(blob) + 1)]),
    (3, lambda random, blob: blob[random.randrange(len(blob) + 1):]),
    (1, lambda random, blob: b"\0" * len(blob)),
    (4, lambda random, blob: splice(random, blob, b"\0" * random.choice((1, 50, 600)))),
    (2, lambda random, blob: blob + b"\0" * random.choice((1, 4096)) + random.choice((b"", b"\n"))),
    (5, lambda random, blob: splice(random, blob, noise(random, random.choice((1, 8, 300))))),
    (9, flipped),
    (15, any_value), (15, any_element),
    (3, lambda random, blob: splice(random, blob, b"\n")),
    (3, lambda random, blob: splice(random, blob, random.choice((b"]", b"1],[2", b"{}", b"},{", b",", b'"', b"\\")))),
    (3, lambda random, blob: splice(random, blob, random.choice((b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\r", b"\xef\xbb\xbf")))),
    (3, lambda random, blob: blob + b"".join(random.sample(blob.splitlines(True), min(2, blob.count(b"\n"))))),
    (4, shuffled),
    (1, lambda random, blob: splice(random, blob, b"[" * random.choice((50, 1500, 100000)))),
    (1, lambda random, blob: splice(random, blob, b'{"a":' * 3000)),
    (.2, lambda random, blob: splice(random, blob, b"9" * 1000000)),
    (.1, lambda random, blob: splice(random, blob, b"x" * 10000000)),
]


def reproduction(blob):
    """Return a journal in a form to paste: zlib.decompress(base64.b64decode(...))."""
    return "journal b64+zlib " + base64.b64encode(zlib.compress(blob, 9)).decode()


def told(problems, blob):
    return problems + [reproduction(blob)] if problems else []


@attack("journals: cut at every byte")
@contained
def cut(room):
    ward = Ward(room)
    for kind in KINDS:
        ward.admit(kind)
        for size in room.pick(range(len(ward.blob)), 40):
            blob = ward.blob[:size]
            ward.write(blob)
            problems = ward.examine(blob)
            if size % 97 == 0:
                problems += ward.ask_cli() if size % 2 else ward.treat()
            yield "%s, %d bytes" % (kind, size), told(problems, blob)


def damages(random, blob):
    """Return journals made of this one, each damaged in its way."""
    half = len(blob) // 2
    first, rest = blob.split(b"\n", 1)
    return {
        "nothing": b"", "a newline": b"\n", "NULs": b"\0" * len(blob), "NULs, a newline": b"\0" * half + b"\n",
        "NULs in the tail": blob[:half] + b"\0" * half, "NULs in the middle": blob[:200] + b"\0" * 400 + blob[600:],
        "NULs in front": b"\0" * half + blob[half:], "random bytes": noise(random, 4096) + b"\n",
        "10 MB line": b"x" * 10000000 + b"\n", "10 MB line behind": blob + b"x" * 10000000,
        "10 MB line between": first + b"\n" + b"x" * 10000000 + b"\n" + rest,
        "10 MB of JSON": blob + b'{"a":"' + b"x" * 10000000 + b'"}\n', "deep": b"[" * 100000 + b"\n",
        "deep between": first + b"\n" + b"[" * 100000 + b"\n" + rest, "deep objects": b'{"a":' * 100000 + b"\n" + blob,
        "deep and whole": blob + b"[" * 100000 + b"]" * 100000 + b"\n", "digits": b"9" * 1000000 + b"\n" + blob,
        "digits as pid": with_value(blob, 1, "last_pid", "9" * 1000000), "every line twice": first + b"\n" + blob + rest,
        "all twice": blob + blob, "backwards": b"".join(reversed(blob.splitlines(True))), "the first line gone": rest,
        "invalid UTF-8": blob.replace(b"patient", b"pati\xffent"), "no UTF-8 at all": blob.decode().encode("utf-16"),
        "lone surrogates": blob.replace(b"patient", b"\\ud800"), "carriage returns": blob.replace(b"\n", b"\r\n"),
        "blank lines": blob.replace(b"\n", b"\n\n"), "an array": b"[" + blob.replace(b"\n", b",\n") + b"]\n",
        "no newlines": blob.replace(b"\n", b""), "indented": blob.replace(b"{", b"{\n ")}


@attack("journals: filled and garbled")
@contained
def garbled(room):
    if sys.implementation.name != "cpython":
        raise Missing("CPython: what others need of memory is not what their readers are given here")
    ward = Ward(room)
    for kind in KINDS:
        ward.admit(kind)
        for number, name in enumerate(room.pick(sorted(damages(room.random, ward.blob)), 8)):
            blob = damages(room.random, ward.blob)[name]  # of the patient that is there now
            ward.write(blob)
            problems = ward.examine(blob) + (ward.ask_cli() if room.full and number % 5 == 4 else [])
            yield "%s: %s" % (kind, name), told(problems + ward.treat(), blob)


@attack("journals: every field, every strange value")
@contained
def values(room):
    ward = Ward(room)
    for kind in KINDS:
        ward.admit(kind)
        cases = [(number, key, text) for number, line in enumerate(ward.blob.splitlines()) for key in json.loads(line.decode())
                 for text in STRANGE if number < 2 or key in ("status", "outcome")]
        # Those that decide whom a stop would hit are never left out.
        cases = [case for case in cases if case[1:] in (("cookie", '""'), ("cookie", '"monitor"'))] + room.pick(cases, 12)
        for place, (number, key, text) in enumerate(cases):
            if '"%s":' % key not in ward.blob.decode():
                continue
            blob = with_value(ward.blob, number, key, text)
            ward.write(blob)
            problems = ward.examine(blob)
            if key in ("cookie", "last_pid", "pid_start", "boot_id") or place % 9 == 0:
                problems += ward.treat()
            yield "%s: line %d: %s: %.30s" % (kind, number + 1, key, text), told(problems, blob)


@attack("journals: of a future format")
@contained
def future(room):
    ward = Ward(room)
    for kind in KINDS:
        ward.admit(kind)
        for number in room.pick((FORMAT + 1, FORMAT + 41, 10 ** 9, 10 ** 30), 1):
            for name, blob in (("known lines", with_value(ward.blob, 0, "format", str(number))),
                               ("unknown lines", b'{"format":%d,"state":{"now":"finished"}}\n{"+":["finished"]}\n' % number)):
                ward.write(blob)
                problems = ward.examine(about="format") + (ward.ask_cli() if room.full or name[0] == "u" else [])
                yield "%s: format %d, %s" % (kind, number, name), told(problems + ward.treat(), blob)


@attack("journals: something else in their place")
@contained
def replaced(room):
    ward = Ward(room)
    victim = room.path / "elsewhere"
    nest = room.path / "nest"
    nest.mkdir()
    victim.write_bytes(b'{"status":"starting"}\n{"status":"finished"}\n')
    things = {
        "a directory": lambda path: path.mkdir(), "a FIFO": lambda path: os.mkfifo(str(path)),
        "nothing": lambda path: None, "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
        "a link to nothing": lambda path: path.symlink_to("nowhere"), "a link to itself": lambda path: path.symlink_to(path),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to another journal": lambda path: path.symlink_to(victim),
        "a link to a healthy journal": lambda path: path.symlink_to(ward.store / "a-healthy" / "000001" / "journal.jsonl"),
        "a link to a directory": lambda path: path.symlink_to(nest)}
    for kind in KINDS:
        ward.admit(kind)
        for name, make in things.items():
            for place in ("journal", "run", "job"):
                path = {"journal": ward.journal, "run": ward.logdir, "job": ward.logdir.parent}[place]
                if (place != "journal" and (kind == "running" or "journal" in name)) or not room.full and place == "run":
                    continue
                aside = room.path / "aside"
                path.rename(aside)
                make(path)
                problems = ward.examine() if place == "journal" else []
                try:
                    with within(15):
                        records = ward.jobs.list_status() if place != "journal" else ward.neighbours
                        if ward.healthy(records) != ward.neighbours and place != "journal":
                            problems.append("a healthy job is told otherwise than before")
                        record = records.get("patient")
                        if record is not None and place == "job" and record.status == "finished" and kind != "finished":
                            problems.append("it is told finished, but was " + kind)
                except (Exception, TooLong) as error:
                    problems.append("list_status: %s: %.200s" % (type(error).__name__, error))
                if place == "job":
                    with contextlib.suppress(nodejobs.NodejobsError), within(15):
                        ward.jobs.run(["true"], "patient", startsecs=0)
                    if os.path.isdir(str(path)) and not os.path.islink(str(path)):
                        shutil.rmtree(str(path))
                    elif os.path.lexists(str(path)):
                        path.unlink()
                    aside.rename(path)
                else:
                    problems += ward.treat()
                    shutil.rmtree(str(aside)) if aside.is_dir() else aside.unlink()
                if victim.read_bytes().count(b"\n") != 2 or os.listdir(str(nest)):
                    problems.append("it wrote to where a link leads")
                    shutil.rmtree(str(nest))
                    nest.mkdir()
                yield "%s: %s in place of its %s" % (kind, name, place), problems


@attack("journals: of a queued job, and of its queue")
@contained
def queued(room):
    ward = Ward(room)
    ward.jobs.run(["sleep", "100000"], "holder", startsecs=0, queue="line")
    for slots in (2, 1):
        ward.jobs.resume("line", slots)
    line = ward.store / ".queue" / "journal.jsonl"
    whole = line.read_bytes()
    rates, changes = zip(*MUTATIONS[:-2])  # but for the longest
    for number in range(room.size(1500, 150)):
        logdir = pathlib.Path(ward.jobs.run(["true"], "patient", queue="line", after=["a-healthy"], after_ok=["m-healthy"]).logdir)
        ward.jobs.resume("other", 1)
        ward.jobs.pause("other")
        queue = line if number % 2 else None
        path = queue or logdir / "journal.jsonl"
        blob = path.read_bytes()
        for change in room.random.choices(changes, rates, k=room.random.choice((1, 1, 2, 3))):
            blob = change(room.random, blob)
        if queue and room.random.random() < .6:
            blob += ('{"%s":%s}\n' % (room.random.choice(("slots", "paused", "paused_by")), room.random.choice(STRANGE))).encode()
        path.write_bytes(blob)
        problems = []
        for verb, ask in (("list_status", ward.jobs.list_status), ("queues", ward.jobs.queues), ("start_due", ward.jobs.start_due),
                          ("other", lambda: ward.jobs.wait("other", 20)), ("prune", ward.jobs.prune),
                          ("first", lambda: ward.jobs.first("patient")), ("stop", lambda: ward.jobs.stop("patient", 1)),
                          ("remove", lambda: ward.jobs.remove("patient"))):
            try:
                with within(20):
                    if verb == "other":
                        ward.jobs.run(["true"], "other", queue="healthy")
                    answer = ask()
                if verb == "list_status":
                    problems += ["%s is %.100r" % (key, answer["patient"][key]) for key in absurd(answer["patient"])] if (
                        "patient" in answer) else ["the damaged job is hidden"] if queue or b"\n" in blob else []  # see Store.state
                    if ward.healthy(answer) != ward.neighbours:
                        problems.append("a healthy job is told otherwise than before")
                if verb == "queues" and not ("line" in answer and (
                        "other" in answer and answer["other"].paused or queue and answer["line"].error)):
                    problems.append("a queue is hidden or told otherwise than before: %r" % answer)
                if verb == "other" and answer.status != "finished":
                    problems.append("another queue is held up: %r" % answer)
            except nodejobs.NodejobsError as error:
                if verb not in ("first", "stop", "remove") or isinstance(error, nodejobs.SchemaError):
                    problems.append("%s raises %r" % (verb, error))
            except (Exception, TooLong) as error:
                problems.append("%s: %s: %.200s" % (verb, type(error).__name__, error))
        yield "case %d, %s" % (number, "its queue" if queue else "its own"), told(problems, blob)
        line.write_bytes(whole)
        end(monitors_of("patient"))
        shutil.rmtree(str(ward.store / "patient"), ignore_errors=True)
        ward.jobs.start_due()


@attack("journals: fuzz")
@contained
def fuzz(room):
    ward = Ward(room)
    rates, changes = zip(*MUTATIONS)
    number = 0
    for turn in range(room.size(10, 1)):
        for kind in KINDS:
            ward.admit(kind)
            for _ in range(room.size(335, 84)):
                blob = ward.blob
                for change in room.random.choices(changes, rates, k=room.random.choice((1, 1, 2, 3))):
                    blob = change(room.random, blob)
                number += 1
                ward.write(blob)
                problems = ward.examine(blob)
                if number % room.size(101, 83) == 0:
                    problems += ward.treat()
                if number % room.size(997, 250) == 0:
                    ward.write(blob)
                    problems += ward.ask_cli()
                yield "case %d, %s" % (number, kind), told(problems, blob)
