"""Ids, commands, environment and logs as weapons; links planted in a shared directory; secrets.

Whatever text comes in is refused with a reason or comes back the same, is written nowhere but in the store
and reaches no terminal raw. Another user who may write to the store's directory plants and swaps links
there: what they lead to stays as it is, and nothing hangs.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import fcntl

from harness import FILE, PYTHON, Missing, attack, contained, end, eventually, is_alive, monitors_of, nodejobs, processes_of

ATTACKER, ORDINARY = 65534, 12345
HOSTILE = [
    "../..", ".", "..", "...", "../x", "/", "/etc/passwd", "a/b", "a/../../b", "~", "~root", "con", "CON", "NUL.txt", "nul.txt", "com1",
    "Com1.log", "lpt9", "aux", "prn.", "x" * 255, "x" * 256, "X" * 127, "X" * 128, "x" * 5000, "\u00e9" * 85, "\u00e9" * 86,
    "a\nb", "\n", "a\r", "\t", "a\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\x85", "\x07", "\x7f", "a\u202eb", "\u200fx",
    "\u200b", "\u2066x\u2069", "\ufeff", "\u2028", "\U000e0041", "-x", "--db", "--", "-", "--help", "a\udcff", "\udc80", "\udcc3\udca9",
    "\ud800", "a\udfff", "a.", "a..", "a ", " a", " ", "a. ", "A", "a", "Ab", "aB", "AB", "ab", "\u00c9", "\u00e9", "e\u0301", "\u212a", "K",
    "*", "?", "[a]", "{a,b}", "$(id)", "`id`", "$HOME", "%2e", "%2E", "%2e%2e", "%", "%%", "%zz", "+a", "+", "++a", "+A", "%41", "a%00b",
    ".removed-x", ".hidden", "lock", "journal.jsonl", "000001", "1", "a\\b", "C:", "a:b", "a|b", "\"", "'", "a;b", "a,b", "a=b", "\U0001f4a3",
    "\ufffd", "\u0000", "a\u0000b", ""]
CLEAN = re.compile(r"\x1b\[(?:0|3[1-6])m")  # our own colours


def snapshot(path, but=None):
    """Return what is in a directory: names, types, modes, owners and contents; `but` one directory."""
    found = {}
    for root, directories, files in os.walk(os.fsencode(str(path))):
        if but is not None and os.fsencode(str(but)) in [os.path.join(root, name) for name in directories]:
            directories.remove(os.path.basename(os.fsencode(str(but))))
        for name in directories + files:
            entry = os.path.join(root, name)
            facts = os.lstat(entry)
            content = open(entry, "rb").read() if name in files and os.path.isfile(entry) and not os.path.islink(entry) else b""
            found[entry] = (facts.st_mode, facts.st_uid, name in files and facts.st_nlink, hashlib.sha256(content).hexdigest())
    return found


def ask(words, store, timeout=60, user=None, **env):
    """Run the command line with words as bytes; return (exit code, stdout, stderr), both bytes."""
    command = [PYTHON, str(FILE)] if user is None else user
    try:
        done = subprocess.run(command + [os.fsencode(str(word)) for word in words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              env=dict(os.environ, NODEJOBS_DB=str(store), **env))
    except subprocess.TimeoutExpired:
        return None, b"", b"it hangs"
    return done.returncode, done.stdout, done.stderr


def raw(output, on_terminal=False):
    """Return what in an output a terminal would obey or not show; "" if it is only text."""
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        return "no UTF-8: %r" % output[max(error.start - 20, 0):error.end + 20]
    if on_terminal:
        text = CLEAN.sub("", text.replace("\r\n", "\n"))
    bad = sorted({char for char in text if char != "\n" and not char.isprintable()})
    return "raw %r in %r" % (bad, text[:200]) if bad else ""


def encodable(text):
    """Tell whether a command line can carry this text."""
    try:
        return b"\0" not in os.fsencode(text) and os.fsdecode(os.fsencode(text)) == text
    except UnicodeEncodeError:
        return False


@attack("weapons: ids")
@contained
def ids(room):
    fence = room.path / "fence"
    store = fence / "in" / "db"
    (fence / "in").mkdir(parents=True)
    (fence / "x").write_text("neighbour")
    os.chdir(str(fence))
    before, names = snapshot(fence, store), {}
    jobs = nodejobs.Jobs(store)
    for job_id in room.pick(HOSTILE, 36) + [chr(code) + "x" for code in range(1, 256)] * room.full:
        problems, record = [], None
        try:
            record = jobs.run(["sh", "-c", 'printf %s "$NODEJOBS_ID"'], job_id, startsecs=0)
        except nodejobs.SchemaError as error:
            problems += ["refused with %r" % str(error)] * (not str(error))
        except Exception as error:
            problems.append("run: %s: %s" % (type(error).__name__, error))
        if encodable(job_id) and (job_id in HOSTILE or record is None):
            code, out, err = ask(["run", "--id=" + job_id, "--startsecs=0", "--json", "--", "true"], store) if record is None else \
                ask(["status", "--json", "--", job_id], store)
            if record is None and (code != 2 or out or err.count(b"\n") != 1 or raw(err)):
                problems.append("the command line: %s, %r, %r" % (code, out[-200:], err[-300:]))
            if record is not None and (code or json.loads(out.decode("ascii"))["self_id"] != job_id):
                problems.append("status --json: %s, %r, %r" % (code, out[-200:], err[-300:]))
        if record is not None:
            jobs.wait(job_id)
            with open(record.stdout_path, "rb") as file:
                seen = file.read()
            if record.self_id != job_id or job_id not in jobs.list_status() or seen != os.fsencode(job_id):
                problems.append("it does not come back: %r, %r" % (record.self_id, seen))
            name = record.dirname.lower().rstrip(". ")
            if names.setdefault(name, job_id) != job_id:
                problems.append("the same directory as %r: %r" % (names[name], record.dirname))
            if os.path.dirname(os.path.abspath(record.logdir)) != str(store / record.dirname) or "/" in record.dirname:
                problems.append("outside: %r" % record.logdir)
            # Each id is there with all the others; then some are removed, each alone.
            if room.random.random() < 0.3:
                others = set(jobs.list_status()) - {job_id}
                jobs.remove(job_id)
                if set(jobs.list_status()) != others:
                    problems.append("remove took or left another job")
        if snapshot(fence, store) != before:
            problems.append("written outside the store: %s" % (set(snapshot(fence, store)) ^ set(before)))
            before = snapshot(fence, store)
        yield "%.40r" % job_id, problems


@attack("weapons: commands, directories, environment")
@contained
def words(room):
    fence = room.path / "fence"
    store = fence / "db"
    fence.mkdir()
    jobs = nodejobs.Jobs(store)
    show = 'printf "%s\\0" "$@"; pwd; env -0'
    for number, text in enumerate(room.pick(HOSTILE, 36)):
        problems = []
        job_id, target = "job", fence / "cwd"
        with contextlib.suppress(OSError, ValueError):
            if text and "/" not in text and text not in (".", ".."):
                (target / text).mkdir(parents=True)
        for where, options in (("word", {"command": ["sh", "-c", show, "sh", text]}),
                               ("value", {"command": ["sh", "-c", show, "sh"], "envs": {"WEAPON": text}}),
                               ("name", {"command": ["sh", "-c", show, "sh"], "envs": {text: "WEAPON"}}),
                               ("directory", {"command": ["sh", "-c", show, "sh"], "cwd": str(target) + "/" + text}),
                               ("program", {"command": [text]}), ("line", {"command": "printf '%s' " + repr(text)})):
            before = snapshot(fence, store)
            try:
                record = jobs.run(job_id=job_id, startsecs=0, **options)
                record = jobs.wait(job_id)
                with open(record.stdout_path, "rb") as file:
                    seen = file.read()
                if record.command != options["command"] or (where == "directory" and record.cwd != os.path.abspath(options["cwd"])):
                    problems.append("%s: it does not come back: %r, %r" % (where, record.command, record.cwd))
                wanted = {"word": b"", "value": b"WEAPON="}
                wanted = wanted[where] + os.fsencode(text) + b"\0" if where in wanted else b""
                if record.status == "finished" and wanted not in seen:
                    problems.append("%s: the command was given %r" % (where, seen[:100]))
                code, out, err = ask(["status", "--json", job_id], store)
                if code or json.loads(out.decode("ascii"))["command"] != record.command:
                    problems.append("%s: status --json: %s, %r" % (where, code, err))
                for verb in (["list"], ["status", job_id], ["history", job_id])[not room.full:][:1 + room.full]:
                    code, out, err = ask(verb, store)
                    problems += ["%s: %s: %s" % (where, verb[0], what) for what in (raw(out), raw(err), code and str(err)) if what]
            except nodejobs.SchemaError as error:
                problems += ["%s: refused with no reason" % where] * (not str(error))
            except Exception as error:
                problems.append("%s: %s: %.300s" % (where, type(error).__name__, error))
            if snapshot(fence, store) != before:
                problems.append("%s: written outside the store" % where)
            if not room.full and (number + len(where)) % 3:
                break
        yield "%.40r" % text, problems


def on_terminal(words, store, columns):
    """Run the command line on a terminal of so many columns; return what it wrote there."""
    pid, master = pty.fork()
    if not pid:
        try:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
            os.execve(PYTHON, [PYTHON, str(FILE)] + [os.fsencode(word) for word in words],
                      dict(environment, NODEJOBS_DB=str(store), TERM="xterm"))
        finally:
            os._exit(99)
    output = b""
    with contextlib.suppress(OSError):  # EIO is its end
        while True:
            part = os.read(master, 65536)
            if not part:
                break
            output += part
    os.close(master)
    os.waitpid(pid, 0)
    return output


@attack("weapons: nothing reaches the terminal raw")
@contained
def terminal(room):
    store = room.path / "db"
    jobs = nodejobs.Jobs(store)
    script = room.path / "fails"
    script.write_text("import sys\nw = sys.stderr.buffer.write\n"
                      "w(b'\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\xc2\\x9b31m\\xff\\xfe\\xc3(\\r\\x08\\x0b\\x0c\\x1c\\x1d\\x1e\\x85\\xe2\\x80\\xae\\n')\n"
                      "w('\\u202e\\u200b\\u2028\\u2029\\ufeff\\x85next\\n'.encode())\nw(b'\\x1b[5m' + b'x' * (1 << 20))\nsys.exit(3)\n")
    texts = [text for text in HOSTILE if not text.isascii() or not text.isprintable()] if hasattr(str, "isascii") else HOSTILE
    for number, text in enumerate(room.pick([text for text in texts if encodable(text)], 4)):
        problems = []
        with contextlib.suppress(nodejobs.SchemaError):
            jobs.run([PYTHON, str(script), text], text, envs={"X" + text.replace("=", ""): text})
            jobs.wait(text)
        verbs = [["run", "--id=%s" % text, "--wait", "--", PYTHON, str(script), text], ["run", "--id=%s-" % text, "--", text],
                 ["run", "--id=%s" % text, "--cwd=/nowhere/" + text, "--", "true"], ["run", "-c", text, "--env", text],
                 ["status", "--", text], ["list"], ["list", "--id=" + text], ["list", "--status=" + text], ["history", "--", text],
                 ["wait", "--", text], ["stop", "--", text, "unknown" + text], ["stop", "--signal=" + text, "a"], [text], ["--" + text],
                 ["list", "--" + text], ["--db=/dev/null/" + text, "list"], ["--db=/dev/null/" + text, "run", "--", "true"],
                 ["wait", "--timeout=" + text, "a"], ["status", "--run=" + text, "a"], ["prune", "--status=" + text],
                 ["remove", "--", text, "unknown" + text], ["prune", "--keep=0"]]
        for verb in verbs if room.full else verbs[:1] + verbs[number % 3 + 1::3]:
            if verb[0] == "run" or verb[0] in ("list", "status") or room.full:
                code, out, err = ask(verb, store)
                problems += ["%s: %s" % (verb[:1], what) for what in (raw(out), raw(err)) if what]
                if b"Traceback" in err:
                    problems.append("%s: %s" % (verb, err[-500:]))
            for columns in (80, 20):
                what = raw(on_terminal(verb, store, columns), True)
                problems += ["%s on %d columns: %s" % (verb[:1], columns, what)] if what else []
        for verb in (["list"], ["status", text], ["history", text], ["run", "--", text], ["wait", text], ["logs", text]):
            code, out, err = ask([verb[0], "--json"] + verb[1:], store)
            try:
                out and json.loads(out.decode("ascii"))
            except ValueError as error:
                problems.append("%s --json: %s" % (verb[0], error))
        yield "%.40r" % text, problems


class Shared:
    """A directory that all may write to, an attacker who does, a victim, and what is precious to the victim."""

    def __init__(self, room, victim):
        if not shutil.which("setpriv") or os.getuid():
            raise Missing("setpriv, and root to use it")
        os.chmod(str(room.path), 0o755)
        self.victim = victim
        self.path = room.path / ("shared-%d-%d" % (victim, room.random.getrandbits(40)))
        self.home, self.store, self.file = self.path / "home", self.path / "db", room.path / "nodejobs.py"
        shutil.copy(str(FILE), str(self.file))
        self.home.mkdir(parents=True)
        (self.home / "dir").mkdir()
        for precious in (self.home / "file", self.home / "dir" / "journal.jsonl", self.home / "dir" / "x"):
            precious.write_bytes(b"precious\n")
        for path in [self.home, self.home / "dir", self.home / "file", *(self.home / "dir").iterdir()]:
            os.chown(str(path), victim, victim)
            os.chmod(str(path), 0o755 if path.is_dir() else 0o644)
        self.store.mkdir()
        os.chmod(str(self.store), 0o1777)
        self.before = snapshot(self.home)

    def prefix(self, user):
        found = [python for python in (PYTHON, "/usr/bin/python3", "/usr/local/bin/python3")
                 if os.path.exists(python) and not subprocess.call(
            self.user(user) + [python, str(self.file), "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
        if not found:
            raise Missing("a Python that other users may execute")
        return ["prlimit", "--as=%d" % (1 << 30)] + self.user(user) + [found[0], str(self.file)]

    @staticmethod
    def user(user):
        return ["setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups"] if user else []

    def fork(self, act):
        """Do something as the attacker, in a process of its own; return its pid."""
        pid = os.fork()
        if not pid:
            try:
                os.setgroups([])
                os.setresgid(ATTACKER, ATTACKER, ATTACKER)
                os.setresuid(ATTACKER, ATTACKER, ATTACKER)
                os.umask(0)
                act()
            finally:
                os._exit(0)
        return pid

    def plant(self, act):
        os.waitpid(self.fork(act), 0)

    def use(self, user, verbs):
        """Let the victim do these verbs; return what was wrong."""
        problems = []
        for verb in verbs:
            code, out, err = ask(verb, self.store, 20, user)
            if code is None or b"Traceback" in err:
                problems.append("%s: %s" % (verb[0], err[-400:].decode("utf-8", "replace")))
            if code is None:
                return problems
            after = snapshot(self.home)
            if after != self.before:
                problems.append("%s: WHAT IS PRECIOUS HAS CHANGED: %s" % (verb[0], [
                    os.path.relpath(os.fsdecode(name), str(self.home)) for name in {**after, **self.before}
                    if after.get(name) != self.before.get(name)]))
                return problems
        return problems

    def clear(self):
        end(processes_of(self.store) + monitors_of("job"))
        shutil.rmtree(str(self.path))


VERBS = [["list"], ["status", "job"], ["run", "--id=job", "--startsecs=0", "--", "sleep", "100"], ["stop", "job"],
         ["run", "--id=job", "--", "true"], ["logs", "job"], ["wait", "--timeout=5", "job"],
         ["run", "--id=other", "--", "true"], ["remove", "other"], ["prune", "--keep=1"], ["remove", "job"], ["prune", "--keep=0"]]
PLACES = ["job", "job/lock", "job/000001", "job/000002", "job/000001/journal.jsonl", "job/000001/lock", "job/000001/stdout.log",
          "job/000001/stderr.log", ".removed-0123456789ab", "job/000003"]


def plant_thing(shared, place, thing):
    """Put a thing there."""
    path = str(shared.store / place)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.rename(path, path + "-aside")
    target = shared.home / ("file" if thing == "a link to a file" else "dir")
    if thing == "a FIFO":
        os.mkfifo(path, 0o666)
    elif thing == "a device":
        os.symlink("/dev/null" if path.endswith(".log") else "/dev/zero", path)  # `logs` rightly shows it, without end
    elif thing == "a hard link":
        os.link(str(shared.home / "file"), path)
    else:
        os.symlink(str(target), path)


@attack("weapons: planted in a shared directory")
@contained
def planted(room):
    cases = [(room.random.choice((0, ORDINARY)), place, thing, earlier) for place in PLACES
             for thing in ("a link to a file", "a link to a directory", "a FIFO", "a device", "a hard link") for earlier in (False, True)]
    room.random.shuffle(cases)
    cases.sort(key=lambda case: case[1:] != (".removed-0123456789ab", "a link to a directory", True))
    for victim, place, thing, earlier in room.pick(cases, 9):
        shared = Shared(room, victim)
        try:
            user = shared.prefix(victim)
            if earlier:  # a real run of the attacker's, in a directory that is open to all
                ask(["run", "--id=job", "--wait", "--", "true"], shared.store, 60,
                    ["sh", "-c", 'umask 0; exec "$@"', "sh"] + shared.prefix(ATTACKER), NODEJOBS_TRUST_DB=str(shared.store))
                assert (shared.store / "job" / "000001" / "journal.jsonl").exists()
            shared.plant(lambda: plant_thing(shared, place, thing))
            if not os.path.lexists(str(shared.store / place)):
                if thing != "a hard link":  # the kernel may forbid that: fs.protected_hardlinks
                    yield "%s as %s" % (thing, place), ["it could not be planted"]
                continue
            verbs = VERBS if room.full else [verb for verb in VERBS if verb[0] in ("run", "stop", "logs", "remove")]
            yield "victim %d: %s as %s%s" % (victim, thing, place, ", after a run" if earlier else ""), shared.use(user, verbs)
        finally:
            shared.clear()


def swap_for_ever(shared, random):
    """Swap everything that we can in the shared directory for links and back."""
    home, store = str(shared.home), str(shared.store)
    while True:
        place = random.choice(PLACES + ["job/000001", "job/000002", "job/000003", "job/lock", "other", "job"])
        path, aside = store + "/" + place, store + "/." + "".join(random.choice("abcdefgh") for _ in range(9))
        with contextlib.suppress(OSError):
            os.makedirs(store + "/job/000001")
        with contextlib.suppress(OSError):
            os.rename(path, aside)
        with contextlib.suppress(OSError):
            random.choice((lambda: os.symlink(home + "/dir", path), lambda: os.symlink(home + "/file", path), lambda: os.mkdir(path, 0o777),
                           lambda: os.mkfifo(path, 0o666), lambda: os.symlink(home + "/new", path)))()
        with contextlib.suppress(OSError):
            os.symlink(home + "/dir", store + "/.removed-%012x" % random.getrandbits(48))
        if random.random() < 0.5:
            with contextlib.suppress(OSError):
                os.unlink(path)
            with contextlib.suppress(OSError):
                os.rename(aside, path)


@attack("weapons: links swapped by a racing user")
@contained
def swapped(room):
    for turn in range(room.size(24, 2)):
        shared = Shared(room, (0, ORDINARY)[turn % 2])
        pid = None
        try:
            user = shared.prefix(shared.victim)
            pid = shared.fork(lambda: swap_for_ever(shared, room.random))
            verbs = [verb for verb in VERBS if verb[0] in ("run", "stop", "remove", "prune")]
            verbs = [room.random.choice(verbs) for _ in range(room.size(40, 10))]
            problems = shared.use(user, verbs)
            yield "turn %d, victim %d" % (turn, shared.victim), problems + ["the attacker died"] * (not is_alive(pid))
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            shared.clear()


@attack("weapons: secrets")
@contained
def secrets(room):
    cases = [(way, kind, umask) for way in ("launcher", "envs") for kind in ("finished", "failed_start", "timeout", "stopped", "line")
             for umask in (0o022, 0, 0o777, 0o277)]
    for number, (way, kind, umask) in enumerate(room.pick(cases, 12)):
        token, problems = "token-%032x" % room.random.getrandbits(128), []
        store = room.path / "deep" / ("db%d" % number)
        (room.path / "deep").mkdir(exist_ok=True)
        command = {"finished": ["true"], "failed_start": ["/nowhere"], "line": "exit 3"}.get(kind, ["sleep", "100"])
        options = {"timeout": 0.5} if kind == "timeout" else {}
        if way == "envs":
            options["envs"] = {"SECRET": token}
        else:
            os.environ["SECRET"] = token
        before = os.umask(umask if umask in (0o022, 0) else 0o022 | umask & 0o077)
        try:
            jobs = nodejobs.Jobs(store)
            record = jobs.run(command, "job", startsecs=0, **options)
        finally:
            os.umask(before)
            os.environ.pop("SECRET", None)
        if kind in ("timeout", "stopped"):
            given = pathlib.Path("/proc/%d/environ" % record.last_pid).read_bytes()
            problems += ["the command was not given it"] * (token.encode() not in given)
            for pid in monitors_of("job"):
                for name in ("environ", "cmdline"):
                    if token.encode() in pathlib.Path("/proc/%d/%s" % (pid, name)).read_bytes() and (way == "envs" or name == "cmdline"):
                        problems.append("it is in the monitor's %s" % name)
        if kind == "stopped":
            jobs.stop("job")
        eventually(lambda: jobs.wait("job", 10).ended)
        for root, _, files in os.walk(str(room.path / "deep")):
            for name in files:
                if token.encode() in pathlib.Path(root, name).read_bytes():
                    problems.append("it is in %s" % os.path.join(root, name))
        if os.stat(str(store)).st_mode & 0o7777 != 0o700:
            problems.append("the store has the mode %o" % (os.stat(str(store)).st_mode & 0o7777))
        yield "%s, %s, umask %03o" % (way, kind, umask), problems
