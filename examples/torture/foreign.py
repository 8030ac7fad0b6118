"""What is not ours: somebody else's files in a store's directory, in a job and in a run, under every verb and method.

Nothing of it may be deleted, changed, locked or listed, whatever is called, and nobody may hang on it.
"""
import contextlib
import inspect
import os
import pathlib
import random
import socket
import stat
import subprocess

import nodejobs
from harness import TooLong, attack, cli, untidy, within

OURS = ("mine", "kept", "ended", "A b/c")  # jobs, started here
FOREIGN = ("photos", "empty", "backup", "+a%20b", "locked", "only-lock", "album", "album-2", "deep", "to-outside",
           "to-file", "dangling", "loop", "pipe", "pipes", "notes.txt", "lock", "journal.jsonl", ".git", "000001")
# As ids they are read back from a directory's name.
IDS = OURS + tuple(name for name in map(nodejobs.unescape_id, FOREIGN) if name is not None) + ("never-there",)


def write(path, text="somebody's\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def dig(path, depth):
    """Make a directory that is so many levels deep."""
    for _ in range(depth):
        path.mkdir()
        path = path / "d"
    write(path / "bottom")


def plant(store, outside, depth):
    """Put somebody's things into a store's directory, beside its jobs; return their paths, links' targets as well."""
    for name in ("photos/a.txt", "photos/2026/b.txt", "locked/lock", "locked/state.db", "only-lock/lock",
                 "album/000001/picture.jpg", "album/000002/lock-of-mine.txt", "pipes/note", ".git/config",
                 ".git/000001/x",
                 "notes.txt", "lock", "journal.jsonl", "000001/x"):
        write(store / name)
    for name in ("empty", "backup", "+a%20b", "album-2/000003", "photos/000001"):
        (store / name).mkdir(parents=True)
    dig(store / "deep", depth)
    run = outside / "000001"
    write(run / "journal.jsonl", '{"status":"starting"}\n')
    for name in ("stdout.log", "lock"):
        write(run / name)
    write(outside / "lock", "")
    for name, target in (("to-outside", outside), ("to-file", outside / "lock"), ("dangling", store / "nowhere"),
                         ("loop", store / "loop")):
        (store / name).symlink_to(target)
    os.mkfifo(str(store / "pipe"))
    os.mkfifo(str(store / "pipes" / "lock"))
    os.mkfifo(str(store / "photos" / "journal.jsonl"))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as knock:
        with contextlib.suppress(OSError):  # a path that is too long
            knock.bind(str(store / "photos" / "socket"))
    return [store / name for name in FOREIGN] + [outside]


def plant_inside(jobs, depth):
    """Put somebody's things into our jobs and their runs, and where queues are kept; return their paths."""
    found = []
    for job_id in OURS:
        run = pathlib.Path(jobs.get_status(job_id).logdir)
        for place in (run.parent, run):
            write(place / "somebodys-note")
            write(place / "somebodys" / "000001" / "x")
            (place / "somebodys-link").symlink_to(place / "somebodys")
            os.mkfifo(str(place / "somebodys-pipe"))
            dig(place / "somebodys-deep", depth if (job_id, place) == ("mine", run) else 3)
            found += [place / ("somebodys" + name) for name in ("", "-note", "-link", "-pipe", "-deep")]
        write(run.parent / "000042" / "picture.jpg")
        found.append(run.parent / "000042")
    for top in (".queue", ".queues"):
        for directory, _, _ in list(os.walk(str(pathlib.Path(jobs.db_path) / top))):
            write(pathlib.Path(directory, "somebodys-note"))
            found.append(pathlib.Path(directory, "somebodys-note"))
    return found


def age(paths, chance):
    """Give what is somebody's modes and times of its own."""
    for path in reversed(list(everything(paths))):
        if not path.is_symlink():
            if stat.S_ISREG(path.lstat().st_mode):
                path.chmod(chance.choice((0o600, 0o644, 0o640, 0o755, 0o400)))
            os.utime(str(path), ns=(10 ** 18, 10 ** 18 + chance.randrange(10 ** 15)))


def everything(paths):
    """Yield these paths and all that is below them, following no link; without recursion, as some are deep."""
    left = list(paths)
    while left:
        path = left.pop()
        yield path
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                left += [path / name for name in sorted(os.listdir(str(path)))]


def snapshot(paths):
    """Return {path: what is there}: kind, mode, owner, time, number, size, and the content or the target."""
    seen = {}
    for path in everything(paths):
        try:
            found = path.lstat()
        except FileNotFoundError:
            seen[str(path)] = "nothing"
            continue
        content = (path.read_bytes() if stat.S_ISREG(found.st_mode) else os.readlink(str(path))
                   if stat.S_ISLNK(found.st_mode) else None)
        seen[str(path)] = (found.st_mode, found.st_uid, found.st_mtime_ns, found.st_ino, found.st_nlink, content)
    return seen


def there(seen, path):
    return seen.get(path, "nothing") != "nothing"


def changed(before, after, store):
    """Return what became of somebody's things, if anything."""
    problems = []
    for path in sorted(set(before) | set(after)):
        was, now = before.get(path, "nothing"), after.get(path, "nothing")
        above = os.path.dirname(path)  # where it came or went itself, what is in it needs no word
        if was != now and there(before, above) == there(after, above):
            name = os.path.relpath(path, str(store))
            problems.append(("%s was deleted" if now == "nothing" else "%s was made" if was == "nothing"
                             else "%s was changed") % name[-80:])
    return problems[:4]


class World:
    """A store among somebody's things, and what is done to it."""

    def __init__(self, room, name, seed, depth=30):
        self.store, self.outside = room.path / name, room.path / (name + "-outside")
        self.store.mkdir(mode=0o700)
        self.chance = random.Random(seed)
        self.paths, self.listed = plant(self.store, self.outside, depth), {*OURS, "new", "never-there"}
        self.jobs = nodejobs.Jobs(self.store)
        self.jobs.run("echo out; echo err >&2", "mine", startsecs=20)
        self.jobs.run("exit 3", "kept", startsecs=20)
        self.jobs.run(["true"], "A b/c", startsecs=20, queue="q")
        self.jobs.run(["true"], "ended", startsecs=20, after=["mine"])
        for job_id in OURS:
            self.jobs.wait(job_id, 20)
        self.paths += plant_inside(self.jobs, depth)
        age(self.paths, self.chance)
        self.before = snapshot(self.paths)

    def look(self, what):
        """Return what has gone wrong since the last look."""
        before, self.before, new = self.before, snapshot(self.paths), set()
        problems = changed(before, self.before, self.store)
        try:
            with within(60):
                records = self.jobs.list_status()
                new = set(records) - self.listed
                problems += ["%s: what is somebody's is told as run 42" % job_id for job_id in records
                             if records[job_id].run == 42]
        except (Exception, TooLong) as error:
            problems.append("list_status: %s: %s" % (type(error).__name__, error))
        problems += ["listed as jobs: %s" % sorted(new)] * bool(new)
        self.listed |= new
        return ["%s: %s" % (what, problem) for problem in problems]

    def call(self, *words):
        """Run the command line; return what is wrong."""
        what = " ".join(map(repr, words))
        try:
            done = cli(self.store, *words, timeout=60)
        except subprocess.TimeoutExpired:
            return ["%s: it hangs" % what]
        problems = untidy(done, range(128))
        if words[0] == "run" and "--id" in words:
            job_id = words[words.index("--id") + 1]
            if job_id not in OURS + ("new", "never-there") and done.returncode != 125:
                problems.append("it is not refused, exit code %d" % done.returncode)
        return ["%s: %s" % (what, problem) for problem in problems] + self.look(what)

    def method(self, name, *arguments, **options):
        """Call a method of Jobs; return what is wrong."""
        what = "%s(%s)" % (name, ", ".join(map(repr, arguments)))
        try:
            with within(60):
                answer = getattr(self.jobs, name)(*arguments, **options)
                if inspect.isgenerator(answer):
                    for _, _ in zip(range(20), answer):
                        pass
                    answer.close()
        except nodejobs.NodejobsError:
            pass
        except (Exception, TooLong) as error:
            return ["%s: %s: %s" % (what, type(error).__name__, error)] + self.look(what)
        return self.look(what)

    def close(self):
        with contextlib.suppress(Exception):
            for job_id in self.jobs.list_status({"status": list(nodejobs.ACTIVE)}):
                self.jobs.stop(job_id, grace=0)
        # Not by shutil: it does not come to the bottom of what is deep.
        subprocess.call(["rm", "-rf", str(self.store), str(self.outside)])


# Verb: its words, given an id. Where a verb takes several ids, it is tried with one, and with all of them.
VERBS = {
    "run": lambda one: ["run", "--id", one, "--wait", "--", "true"],
    "status": lambda one: ["status", one],
    "list": lambda one: ["list", "--id", one],
    "logs": lambda one: ["logs", one],
    "wait": lambda one: ["wait", one, "--timeout", "0.1"],
    "stop": lambda one: ["stop", one, "--grace", "0"],
    "restart": lambda one: ["restart", one],
    "history": lambda one: ["history", one],
    "remove": lambda one: ["remove", one],
    "prune": lambda one: ["prune", "--keep", "0", "--id", one],
    "queue": lambda one: ["queue", "first", one],
    "install": lambda one: ["install", "--help"],  # it has no store
}
MORE = [["list", "--json"], ["prune"], ["prune", "--keep", "0"], ["prune", "--older-than", "0s"], ["prune", "--json"],
        ["queue", "list"], ["queue", "start"], ["queue", "pause", "q"], ["queue", "resume", "q"],
        ["run", "--id", "new", "--queue", "r", "--", "true"], ["run", "--id", "new", "--after", "photos", "--", "true"],
        ["run", "--id", "never-there", "--fresh", "1h", "--wait", "-c", "exit 3"]]
METHODS = {
    "run": lambda world, one: world.method("run", ["true"], one, startsecs=20),
    "stop": lambda world, one: world.method("stop", one, grace=0),
    "get_status": lambda world, one: world.method("get_status", one),
    "list_status": lambda world, one: world.method("list_status", {"self_id": one}),
    "list": lambda world, one: world.method("list", {"self_id": "*"}),
    "wait": lambda world, one: world.method("wait", one, 0.1),
    "watch": lambda world, one: [],  # takes a record, which nobody gets of what is not ours
    "job_logs": lambda world, one: world.method("job_logs", one),
    "history": lambda world, one: world.method("history", one),
    "bind": lambda world, one: world.method("bind", one, from_beginning=True),
    "sse": lambda world, one: world.method("sse", one, from_beginning=True),
    "remove": lambda world, one: world.method("remove", one),
    "prune": lambda world, one: world.method("prune", **world.chance.choice(({}, {"keep": 0}, {"older_than": 0}, {
        "keep": 0, "filter": {"self_id": one}}))),
    "restart": lambda world, one: world.method("restart", one),
    "queues": lambda world, one: world.method("queues"),
    "pause": lambda world, one: world.method("pause", "q"),
    "resume": lambda world, one: world.method("resume", "q"),
    "set_slots": lambda world, one: world.method("set_slots", "q", 2),
    "first": lambda world, one: world.method("first", one),
    "start_due": lambda world, one: world.method("start_due"),
}


def methods():
    return [name for name, _ in inspect.getmembers(nodejobs.Jobs, inspect.isfunction) if not name.startswith("_")]


def removal(world):
    """Remove a job in which somebody has put something: ours goes, theirs stays and is named."""
    run = pathlib.Path(world.jobs.get_status("mine").logdir)
    done = cli(world.store, "remove", "mine")
    problems = untidy(done, range(128)) + world.look("remove")
    problems += ["what stays is not named: %r" % (done.stdout + done.stderr)] * (
        "somebodys" not in done.stdout + done.stderr)
    problems += ["%s was left" % name for name in ("journal.jsonl", "stdout.log", "stderr.log")
                 if (run / name).exists()]
    return problems + ["it is listed still"] * ("mine" in world.jobs.list_status())


@attack("foreign: somebody's data under every verb")
def verbs(room):
    missing = sorted(set(nodejobs.VERBS) - set(VERBS)) + sorted(set(methods()) - set(METHODS))
    yield "all are tried", ["these are not: %s" % ", ".join(missing)] * bool(missing)
    # What deletes comes last, as the jobs of this world are needed once each; `prune` alone has a world of its own.
    order = sorted((verb for verb in VERBS if verb in nodejobs.VERBS), key=("remove", "prune").__contains__)
    cases = [(verb, [VERBS[verb](one) for one in IDS]) for verb in order]
    if not room.full:  # some ids of each verb
        cases = [(verb, room.random.sample(calls, 4 if verb in ("run", "remove") else 1)) for verb, calls in cases]
    cases.insert(-2, ("all ids at once", [[verb, *IDS] for verb in ("wait", "stop")]))
    with contextlib.closing(World(room, "verbs", room.random.random())) as world:
        for verb, calls in cases:
            yield verb, [problem for words in calls for problem in world.call(*words)]
    with contextlib.closing(World(room, "prune", room.random.random())) as world:
        for words in room.pick(MORE, 5):
            yield " ".join(words), world.call(*words)
    with contextlib.closing(World(room, "removal", room.random.random(), depth=1200)) as world:
        yield "a job that holds somebody's", removal(world)


@attack("foreign: somebody's data under every method, in random order")
def mixes(room):
    names = [name for name in methods() if name in METHODS]
    for turn in range(room.size(40, 3)):
        seed = room.random.getrandbits(32)
        with contextlib.closing(World(room, "mix-%d" % turn, seed)) as world:
            calls = names + world.chance.choices(names, k=room.size(50, 10))
            world.chance.shuffle(calls)
            yield "seed %d" % seed, [problem for name in calls
                                     for problem in METHODS[name](world, world.chance.choice(IDS))]
