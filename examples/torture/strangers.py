"""Whom stop must leave alone, and what it cannot kill: strangers, namesakes, recycled pids, itself, other users.

Strangers are placed in a pid namespace of the attack's own, where pids can be given away at will. What
cannot be killed are processes of root's that a job of an ordinary user has started (by a program with
the set-user-id bit, as sudo), or whole jobs of root's that somebody else tries to stop.
"""
import os
import pathlib
import shutil
import subprocess
import time

import nodejobs
from harness import (FILE, PYTHON, Missing, attack, end, eventually, inside, is_alive, namespaces, take_pid,
                     untidy)
from trees import fighter_of, of_token

INNER = """
import ctypes, sys, time
sys.path.insert(0, %r)
import nodejobs
if int(sys.argv[3]):
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: the inner monitor becomes its child
nodejobs.Jobs(sys.argv[1]).run(["sleep", "300"], "inner", startsecs=0)
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
""" % str(FILE.parent)

STOPPER = """
import pathlib, sys
sys.path.insert(0, %r)
import nodejobs
record = nodejobs.Jobs(sys.argv[1]).stop(sys.argv[2], grace=float(sys.argv[3]))
pathlib.Path(sys.argv[4]).write_text(record.status + "\\n")
""" % str(FILE.parent)


def printed(record):
    return eventually(lambda: os.path.getsize(record.stdout_path) > 0)


def inner_case(path, name, seconds, grace, adopts):
    """Stop a job that has started another one, while it runs or after it; the other one must go on."""
    jobs, problems = nodejobs.Jobs(os.path.join(path, name)), []
    outer = jobs.run([PYTHON, "-c", INNER, jobs.db_path, str(seconds), str(int(adopts))], "outer", startsecs=0)
    printed(outer)
    if not seconds:
        jobs.wait("outer", 30)
    inner = jobs.get_status("inner")
    jobs.stop("outer", grace=grace)
    after = jobs.get_status("inner")
    alive = is_alive(inner.last_pid) and is_alive(inner.monitor_pid)
    if not alive or (after.status, after.monitored) != ("running", True):
        problems.append("the job that it had started is %s, monitored: %s" % (after.status, after.monitored))
    jobs.stop("inner", grace=0)
    return problems


def namesake_case(path, name, ended):
    """Stop a job among strangers that carry its names; all of them must live."""
    jobs = nodejobs.Jobs(os.path.join(path, name))
    record = jobs.run("sleep 300 & exec sleep %d" % (0 if ended else 300), "job-" + name, startsecs=0)
    if ended:
        record = jobs.wait(record.self_id, 30)
    mark = "NODEJOBS_COOKIE=" + record.cookie
    strangers = {
        "the id among its arguments": (["sh", "-c", "sleep 300; :", record.self_id], {}),
        "the cookie among its arguments": (["sh", "-c", "sleep 300; :", record.cookie, mark], {}),
        "the cookie within another variable": (["sleep", "300"], {"OTHER": "x" + mark, "X" + mark[:15]: record.cookie}),
        "a longer cookie": (["sleep", "300"], {"NODEJOBS_COOKIE": record.cookie + "0"}),
        "the id and run in its environment": (["sleep", "300"], {"NODEJOBS_ID": record.self_id, "NODEJOBS_RUN": "1",
                                                                 "NODEJOBS_DB": jobs.db_path}),
        "a follower of its log": (["tail", "-f", record.stdout_path], {}),
    }
    processes = {what: subprocess.Popen(words, env=env, start_new_session=number % 2 > 0, cwd=record.logdir,
                                        stdout=subprocess.DEVNULL)
                 for number, (what, (words, env)) in enumerate(strangers.items())}
    try:
        jobs.stop(record.self_id, grace=0)
        return ["killed: " + what for what, process in processes.items() if process.poll() is not None]
    finally:
        for process in processes.values():
            end(of_parent(process.pid))
            process.kill()
            process.wait()


def of_parent(pid):
    try:
        text = pathlib.Path("/proc/%d/task/%d/children" % (pid, pid)).read_text()
    except OSError:
        text = ""
    return [int(word) for word in text.split()]


def recycled_case(path, name, same_tick, leader):
    """Stop an ended job whose command's pid a stranger has got, in the same clock tick or not."""
    jobs = nodejobs.Jobs(os.path.join(path, name))
    for _ in range(200):
        record = jobs.run(["true"], "a", startsecs=0)
        if take_pid(record.last_pid, leader):
            start = nodejobs.platform.start_time(record.last_pid)
            hit = (start == record.pid_start) == same_tick
            if hit:
                jobs.wait("a", 30)
                jobs.stop("a", grace=0)
                time.sleep(0.02)
                if not is_alive(record.last_pid):
                    return ["the stranger with the command's pid was killed"]
            end([record.last_pid])
            os.waitpid(record.last_pid, 0)
            if hit:
                return []
        jobs.wait("a", 30)
    return ["the attack is broken: the pid was never taken in time"]


def stopper_case(path, name, command, target, grace):
    """Let a process of a job stop that job, or another one; it must live to tell, and nothing else."""
    jobs, problems = nodejobs.Jobs(os.path.join(path, name)), []
    witness = pathlib.Path(path, name + ".witness")
    script = pathlib.Path(path, "stopper.py")
    script.write_text(STOPPER)
    words = "%s %s %s %s %g %s" % (PYTHON, script, jobs.db_path, target, grace, witness)
    other = jobs.run("sleep 300 & sleep 300", "other", startsecs=0)
    record = jobs.run(command % words, "self", startsecs=0)
    told = eventually(lambda: witness.exists() and witness.read_text())
    if not told:
        problems.append("the stopper did not live to tell")
    victim = jobs.wait(target, 30)
    if victim.status != ("finished" if "ends" in name else "stopped"):
        problems.append("the job is %s: %s" % (victim.status, victim.error))
    if target == "self":
        left = of_token("sleep\0" + "200")
        problems += ["the rest of it lives: %s" % left] * bool(left)
        problems += ["the other job was touched"] * (jobs.get_status("other").status != "running")
    elif jobs.wait("self", 30).status != "finished":
        problems.append("the job of the stopper is " + jobs.get_status("self").status)
    for job_id in ("self", "other"):
        jobs.stop(job_id, grace=0)
    end([pid for pid in (record.last_pid, other.last_pid) if is_alive(pid)])
    return problems


STOPPERS = {  # %s is the stopper
    "the command itself": ("exec %s", "self"),
    "a child of the command": ("sleep 200 & %s; sleep 200", "self"),
    "a daemon of the command": ("sleep 200 & (setsid %s &) ; sleep 200", "self"),
    "a grandchild among deaf ones": ("trap '' TERM; (sleep 200 & %s; sleep 200); sleep 200", "self"),
    "a daemon when the command ends": ("sleep 200 & (setsid sh -c 'sleep 0.3; exec %s' &)", "self"),
    "a sibling job": ("%s", "other"),
}


@attack("stop: strangers survive")
def strangers(room):
    words = namespaces()
    cases = [("a job that it started%s, it %s, grace %g" % (" and adopted" * adopts, "runs" if seconds else "has ended",
                                                            grace), inner_case, "inner", seconds, grace, adopts)
             for adopts in (True, False) for seconds in (300, 0) for grace in (0, 1)]
    cases += [("namesakes of a job that %s" % ("has ended" if ended else "runs"), namesake_case, "names-%d" % ended,
               ended) for ended in (False, True)]
    cases += [("the stopper: %s, grace %g" % (who, grace), stopper_case, who.replace(" ", "-") + "-%g" % grace,
               *STOPPERS[who], grace) for who in STOPPERS for grace in (0, 1)]
    cases = room.pick(cases, 10)
    cases += [("a recycled pid, %s tick, %s" % ("the same" if tick else "another", "leader" if leader else "no leader"),
               recycled_case, "pid-%d-%d" % (tick, leader), tick, leader)
              for turn in range(room.size(5, 1)) for tick in (True, False) for leader in (True, False)
              if hasattr(os, "posix_spawn")]  # else a pid cannot be taken in time
    for number, (name, function, *arguments) in enumerate(cases):
        arguments[0] = "%d-%s" % (number, arguments[0])
        yield name, inside(words, function, str(room.path), *arguments)


USER = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
HURRIED = "import sys; sys.path.insert(0, %r); import nodejobs; nodejobs.KILL_SECONDS = 0.3; sys.exit(nodejobs.main())"


@attack("stop: what cannot be killed is named")
def unkillable(room):
    if os.getuid() or not shutil.which("setpriv"):
        raise Missing("root and setpriv")
    room.path.chmod(0o755)
    shutil.copy(str(FILE), str(room.path))
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"
    python = next((path for path in (PYTHON, "/usr/bin/python3") if not subprocess.run(
        USER + [path, "-c", again], stderr=subprocess.DEVNULL).returncode), None)
    if not python:
        raise Missing("a Python that other users may execute")
    fighter = fighter_of(room)
    mighty = shutil.copy(fighter, fighter + "-of-root")  # a job's sudo: a process that its user may not signal
    os.chmod(mighty, 0o4755)
    words = USER + [python, "-c", HURRIED % str(room.path)]
    for name, owner, mode, grow in room.pick((
            ("root's job, a store that others may read", 0, 0o755, "exec {0}"),
            ("root's job, a store that others may write", 0, 0o777, "exec {0}"),
            ("a user's job that is one process of root's", 65534, 0o755, "exec {1}"),
            ("a user's job with a process of root's in it", 65534, 0o755, "{1} & {0}; wait"),
            ("a user's job with a daemon of root's", 65534, 0o755, "setsid {1} & {0}; wait"),
            ("a user's job that left a process of root's", 65534, 0o755, "{1} &")), 6):
        for grace in (0, 0.3)[:room.size(2, 1)]:
            yield "%s, grace %g" % (name, grace), unkillable_case(room, (fighter, mighty), words, owner, mode, grow,
                                                                  grace)


def unkillable_case(room, fighters, words, owner, mode, grow, grace):
    """Let an ordinary user stop what is partly or wholly root's; return what was wrong."""
    store = room.path / ("store-" + os.urandom(6).hex())  # of this attack only: another may fight at the same time
    token = store.name + "-token"
    roll = room.path / token
    roll.write_bytes(b"")
    roll.chmod(0o666)
    store.mkdir()
    os.chown(str(store), owner, owner)

    def call(program, *more):
        return subprocess.run(program + ["--db", str(store), *more], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              env=dict(os.environ, NODEJOBS_TRUST_DB=str(store)), stderr=subprocess.PIPE,
                              universal_newlines=True, timeout=60)
    try:
        line = grow.format(*["%s i %s %s 9" % (program, token, roll) for program in fighters])
        started = call(words if owner else [PYTHON, str(FILE)], "run", "--id", "a", "-c", line)
        if started.returncode or not eventually(lambda: roll.stat().st_size >= grow.count("{")):
            return ["the attack is broken: %s" % started.stderr]
        for path in [store, *store.rglob("*")] * (owner == 0):
            path.chmod(mode | path.stat().st_mode & 0o111 if path.is_dir() else mode & 0o666)
        jobs = nodejobs.Jobs(store)
        before = jobs.get_status("a")
        stopped = call(words, "stop", "--grace", "%g" % grace, "a")
        after, left = jobs.get_status("a"), of_token(token)
        problems = untidy(stopped, [125])
        problems += ["%d is not named: %s" % (pid, stopped.stderr) for pid in left if str(pid) not in stopped.stderr]
        problems += ["the attack is broken: nothing is left"] * (not left)
        problems += ["it is told as %s" % after.status] * (after.status == "stopped")
        if is_alive(before.last_pid) and after.status not in nodejobs.ACTIVE:
            problems.append("it runs and is told as %s" % after.status)
        done = call([PYTHON, str(FILE)], "stop", "--grace", "0", "a")
        problems += untidy(done, [0]) + ["root could not stop it either"] * bool(of_token(token))
        return problems
    finally:
        end(of_token(token))
