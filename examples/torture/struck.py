"""One case of killed.py and errors.py: a job, a blow to one of its processes, and all that is asked after it."""
import collections
import contextlib
import json
import os
import re
import shutil
import subprocess
import time

import nodejobs
from harness import (ACTIVE, ENDED, FILE, PYTHON, cli, end, eventually, is_alive, listed, monitors_of, processes_of,
                     untidy)

STEADY = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}  # or the ordinals would differ
COMMANDS = {  # name: (shell line, exit code); the first act is to say the pid, the last one to say that it is done
    "long": ("echo $$ > pid.new; mv pid.new pid; exec sleep 300", None),
    "stubborn": ("trap '' TERM; echo $$ > pid.new; mv pid.new pid; exec sleep 300", None),
    "short": ("echo $$ > pid.new; mv pid.new pid; echo out; echo err >&2; : > done; exit 0", 0),
    "failing": ("echo $$ > pid.new; mv pid.new pid; echo out; echo err >&2; : > done; exit 3", 3)}
DEPTHS = {"starter": 0, "monitor": 1, "child": 2}  # forks from the bare interpreter
WRAPPER = """\
#!%s -IS
import posix, sys, time
place, met, depth, fork = %r, %d, 0, posix.fork
stub = sys.argv[sys.argv.index("-c") + 1]
sys.argv = sys.argv[sys.argv.index("-c") + 1:]

def meet():
    gate = posix.open(place + "/gate", posix.O_RDONLY | posix.O_CLOEXEC)
    note = posix.open(place + "/met.new", posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC)
    posix.write(note, b"%%d" %% posix.getpid())
    posix.close(note)
    posix.rename(place + "/met.new", place + "/met")
    while not posix.preadv(gate, [bytearray(1)], 0):  # a call that nobody else makes: it disturbs no count
        time.sleep(0.001)

def met_fork():
    global depth
    pid = fork()
    if not pid:
        depth += 1
        if depth == met:
            meet()
    return pid

posix.fork = met_fork
if not met:
    meet()
exec(stub, sys.modules["__main__"].__dict__)
"""
LAUNCHER = ("import sys; sys.path.insert(0, %r); import nodejobs; nodejobs.Jobs.python = sys.argv.pop(1); "
            "sys.exit(nodejobs.main(sys.argv[1:]))" % str(FILE.parent))

Blow = collections.namedtuple("Blow", "call when how own")  # own: only calls on the job's own paths count
Truth = collections.namedtuple("Truth", "pid done processes monitors")


class Case:
    """A store with a running neighbour in it, a job, and what is known of that job without asking nodejobs."""

    def __init__(self, room, number, role, command):
        self.place, self.role, self.command = room.path / str(number), role, command
        self.line, self.code = COMMANDS[command]
        self.id = "%s-%s" % (room.path.name, number)
        self.by_cli = room.full and isinstance(number, int) and number % 3 == 0  # else in this process: it is faster
        self.store, self.log = self.place / "db", self.place / "strace"
        self.tracer = self.launcher = None
        self.place.mkdir()
        self.jobs = nodejobs.Jobs(self.store)
        other = self.jobs.run(["sleep", "300"], self.id + "-other", startsecs=0)
        self.other, self.other_journal = other.last_pid, self.journal(self.id + "-other")
        self.asked, self.struck, self.final = False, False, None

    def journal(self, job_id):
        return (self.store / job_id / "000001" / "journal.jsonl").read_bytes()

    def witness(self, name):
        return self.place / name

    def truth(self):
        """Return what is so, told by witnesses only."""
        try:
            pid = int(self.witness("pid").read_text())
        except FileNotFoundError:
            pid = None
        processes = {process for process in processes_of(self.store) if process != self.other}
        # Twice: a look at /proc can miss a monitor that is forked during it by a starter that ends during it.
        return Truth(pid, self.witness("done").exists(), processes, monitors_of(self.id) or monitors_of(self.id))

    def paths(self):
        """Return the paths that this job's calls are about."""
        job, pid = self.store / self.id, self.truth().pid
        paths = [self.store, job, job / "lock", job / "000001"]
        paths += [job / "000001" / name for name in ("journal.jsonl", "lock", "stdout.log", "stderr.log")]
        return paths + (["/proc/%d/stat" % pid, "/proc/%d/environ" % pid] if pid else [])

    def strace(self, blow, *words):
        """Return the command line of strace for a blow; without one, for a dry run."""
        if blow.call:
            line = ["strace", "-qqq", "-o", str(self.log), "-e", "trace=preadv,preadv2," + blow.call,
                    "-e", "inject=%s:%s:when=%s" % (blow.call, blow.how, blow.when)]
        else:
            line = ["strace", "-qqq", "-y", "-s", "200", "-o", str(self.log)]
        for path in self.paths() + [self.place / "gate"] if blow.own else ():
            line += ["-P", str(path)]
        return line + [str(word) for word in words]

    def strike(self, blow):
        """Do what the role does, struck; return the completed process of the command line."""
        self.blow = blow
        run = ["run", "--id", self.id, "--cwd", str(self.place), "--", "/bin/sh", "-c", self.line]
        if self.role in DEPTHS:
            run.insert(1, "--startsecs=0")  # waiting for the end is the launcher's matter, not the monitor's
            return self.strike_monitor(blow, run)
        if self.role == "launcher":
            run.insert(1, "--startsecs=%d" % (0 if self.code is None else 20))
            words = run
        else:
            self.jobs.run(["/bin/sh", "-c", self.line], self.id, self.place, startsecs=0 if self.code is None else 20)
            eventually(self.witness("pid").exists)
            words = {"stopper": ["stop", self.id, "--grace=0.05"], "remover": ["remove", self.id]}[self.role]
            self.asked = self.role == "stopper"
        completed = cli(self.store, *words, before=self.strace(blow), env=STEADY)
        self.struck = self.is_struck(blow)
        return completed

    def strike_monitor(self, blow, run):
        """Start the job with a wrapper in place of the monitor's Python; strike what waits at the gate."""
        wrapper = self.place / "wrapper"
        wrapper.write_text(WRAPPER % (PYTHON, str(self.place), DEPTHS[self.role]))
        wrapper.chmod(0o755)
        self.witness("gate").touch()
        self.launcher = launcher = subprocess.Popen(
            [PYTHON, "-c", LAUNCHER, str(wrapper)] + run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True,
            env=dict(os.environ, NODEJOBS_DB=str(self.store), **STEADY))
        if eventually(self.witness("met").exists):
            words = ["-b", "execve"] * (self.role == "child" and "error" not in blow.how)
            words += ["-p", self.witness("met").read_text()]
            self.tracer = subprocess.Popen(self.strace(blow, *words), stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(lambda: self.log.exists() and "preadv" in self.log.read_text(errors="replace"))
            record = self.look()[0]  # in the middle of its start: whoever is told an end now must never be told another
            self.final = record.status if record is not None and record.status in ENDED else None
        self.witness("gate").write_text("!")
        out, err = launcher.communicate(timeout=60)
        if self.command in ("long", "stubborn") and self.asked:
            eventually(lambda: self.truth().pid or not self.truth().monitors)
            self.jobs.stop(self.id, grace=0.05)
        if self.code is not None or "KILL" in blow.how or self.role != "monitor" or self.asked:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.tracer.wait(20)
        self.struck = blow.call and eventually(lambda: self.is_struck(blow), 2)
        return subprocess.CompletedProcess([], launcher.returncode, out, err)

    def is_struck(self, blow):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return ("+++ killed by SIGKILL" if "KILL" in blow.how else "INJECTED") in text

    def ask(self, verb, *words):
        """Let nodejobs do something to the job; return (record, problems)."""
        if not self.by_cli:
            try:
                if verb == "run":
                    return self.jobs.run(["/bin/sh", "-c", words[-1]], self.id, self.place, startsecs=20), []
                return (self.jobs.stop(self.id, grace=0.05) if verb == "stop" else self.jobs.remove(self.id)), []
            except nodejobs.UnknownJob:
                return None, []
            except Exception as error:
                return None, ["the next %s: %s: %s" % (verb, type(error).__name__, error)]
        line = [verb, "--json", self.id] + ["--grace=0.05"] * (verb == "stop")
        if verb == "run":
            line = ["run", "--json", "--startsecs=20", "--id", self.id, "--cwd", self.place, "-c", words[-1]]
        done = cli(self.store, *line)
        if done.returncode == 125 and "there is no job" in done.stderr:
            return None, []
        problems = ["the next %s: %s" % (verb, problem) for problem in untidy(done, [0])]
        return (None if problems else nodejobs.JobRecord(json.loads(done.stdout))), problems

    def look(self):
        """Return (record or None, problems) of the job, by a list of all."""
        if self.by_cli:
            records, problems = listed(self.store)
        else:
            try:
                records, problems = self.jobs.list_status(), []
            except Exception as error:
                return None, ["list: %s: %s" % (type(error).__name__, error)]
        record, other = records.get(self.id), records.get(self.id + "-other", {})
        if not problems and (other.get("status") != "running" or other.get("last_pid") != self.other):
            problems.append("its neighbour is told %s, pid %s" % (other.get("status"), other.get("last_pid")))
        if record is not None:
            try:
                record = nodejobs.JobRecord(dict(record))
                if json.loads(json.dumps(record)) != record or record.status not in ACTIVE + ENDED:
                    problems.append("an invalid record: %r" % record)
            except (nodejobs.SchemaError, ValueError) as error:
                problems.append("an invalid record: %s" % error)
        return record, problems

    def lies(self, record, before, after):
        """Return what the record says that cannot be so, whoever is still at work."""
        status, lies = record.status if record else None, []
        if before.processes & after.processes and status not in ACTIVE:
            lies.append("a live command is told %s" % status)
        if status == "finished" and not (after.done and self.code == 0):
            lies.append("it has not finished, and is told so")
        if record and record.exit_code is not None and not (after.done and record.exit_code == self.code):
            lies.append("exit code %s is made up" % record.exit_code)
        if status == "failed_start" and after.pid or status is None and before.pid and self.role != "remover":
            lies.append("it ran and is told %s" % status)
        if status == "stopped" and not self.asked:
            lies.append("nobody has stopped it, and it is told so")
        if status == "failed" and record.exit_code is None and self.role != "child" and not self.asked:
            lies.append("nobody has killed it, and it is told so")
        one_error = "error" in self.blow.how and "+" not in str(self.blow.when)
        if status == "lost" and (self.role not in DEPTHS or one_error):  # an error that lasts may cost the exit code
            lies.append("nobody has killed its monitor, and it is told lost")
        if record and before.pid and record.last_pid != before.pid:
            lies.append("its pid is %s and is told %s" % (before.pid, record.last_pid))
        return lies

    def lags(self, record, before, after):
        """Return what the record says too late; it may while a launcher or monitor is still at work."""
        lags, active = [], record is not None and record.status in ACTIVE
        if active and not before.processes and not after.processes:
            lags.append("a dead command is told %s" % record.status)
        if active and record.status != "starting" and bool(record.monitored) != bool(after.monitors):
            lags.append("monitors %s, and told monitored=%s" % (after.monitors, record.monitored))
        if active and record.status == "starting":
            lags.append("it is told starting and nobody starts it")
        if not active and after.monitors and not self.waits_for_room():
            lags.append("it is told %s and has monitors %s" % (record and record.status, after.monitors))
        if active and self.code is not None:
            lags.append("it should have ended")
        return lags

    def waits_for_room(self):
        """Tell whether the blow is a lasting error of the monitor's: it may stay until it can write the end."""
        return self.role == "monitor" and "+" in str(self.blow.when)

    def settle(self):
        """Look until the record says how it stays; return (record, problems)."""
        deadline = time.monotonic() + 20
        while True:
            before = self.truth()
            record, problems = self.look()
            after = self.truth()
            problems = problems + self.lies(record, before, after)
            lags = self.lags(record, before, after)
            if record is not None and self.final is None and record.status in ENDED:
                self.final = record.status
            if self.final is not None and (record is None or record.status != self.final):
                problems.append("it was told %s, and then %s" % (self.final, record and record.status))
            # A command that still runs may end when it likes; all else has its time only while somebody works at it.
            working = before.monitors or self.code is not None and before.processes
            if problems or not lags or not working or time.monotonic() > deadline:
                return record, problems or lags
            time.sleep(0.003)

    def judge(self, completed, codes):
        """Ask all that is promised after the blow; return the problems."""
        problems = untidy(completed, codes)
        record, wrong = self.settle()
        problems += wrong
        problems += self.broken(completed.returncode, record)
        if completed.returncode == 125 and not re.match(r"nodejobs: .*\n\Z", completed.stderr):
            problems.append("not one clear line on stderr: %r" % completed.stderr[-300:])
        self.asked = True
        stopped, wrong = self.ask("stop")
        problems += wrong
        if self.truth().processes:
            problems.append("after the next stop there is still %s" % sorted(self.truth().processes))
        if (stopped is None) != (record is None):
            problems.append("the next stop finds %s where list has shown %s" % (stopped, record))
        if self.waits_for_room():
            end(monitors_of(self.id))
        if not eventually(lambda: not monitors_of(self.id)):
            problems.append("after the next stop there are monitors %s" % monitors_of(self.id))
        if record is not None and stopped is not None and (
                stopped.status != (record.status if record.status in ENDED else "stopped")) and not self.waits_for_room():
            problems.append("the next stop makes %s of %s" % (stopped.status, record.status))
        again, wrong = self.ask("run", ": > again")
        problems += wrong
        if again is not None and (again.status != "finished" or not self.witness("again").exists()):
            problems.append("the next run is told %s: %s" % (again.status, again.error))
        if again is not None and stopped is not None and self.role != "remover":
            old = self.jobs.get_status(self.id, stopped.run)
            if old is None or old.status != stopped.status or again.run <= stopped.run:
                problems.append("the old run was told %s and is now %s" % (stopped.status, old and old.status))
        problems += self.ask("remove")[1]
        left = sorted(set(os.listdir(str(self.store))) - {self.id + "-other"})
        if left:
            problems.append("after the next remove there is still %s" % left)
        problems += self.look()[1]
        if not is_alive(self.other) or self.journal(self.id + "-other") != self.other_journal:
            problems.append("its neighbour was disturbed")
        return problems

    def broken(self, code, record):
        """Return what an exit code has promised and is not so."""
        status, truth = record.status if record else None, self.truth()
        if code == 0 and self.role == "stopper" and (truth.processes or status not in ENDED):
            return ["stop exits with 0, and it is %s, with processes %s" % (status, sorted(truth.processes))]
        if code == 0 and self.role == "remover" and (record or len(os.listdir(str(self.store))) != 1):
            return ["remove exits with 0 and there is %s" % os.listdir(str(self.store))]
        eventually(lambda: self.witness("pid").exists() or not self.truth().processes)  # it may not have said it yet
        if code == 0 and self.role not in ("stopper", "remover", "child") and not self.asked and not self.truth().pid:
            return ["run exits with 0 and the command did not run; it is told %s" % status]
        files = sorted(str(path.relative_to(self.store / self.id)) for path in (self.store / self.id).glob("*/*"))
        if self.role == "remover" and (files if record is None else len(files) != 4):
            return ["remove was struck, and of the job there is a part: %s" % files]
        if code in (126, 127) and status != "failed_start":
            return ["run exits with %d and it is told %s" % (code, status)]
        return []

    def clean(self):
        """Leave nothing: no process, no file."""
        end(processes_of(self.store))
        end(monitors_of(self.id) + monitors_of(self.id + "-other"))
        for process in filter(None, (self.launcher, self.tracer)):
            process.kill()
            process.communicate()
        shutil.rmtree(str(self.place), ignore_errors=True)
