"""The truth in adversity: the monitor is killed, the machine reboots, pids come round to strangers.

A reboot is another boot id, mounted over the real one in a mount namespace; pids are given away in a
pid namespace of the attack's own.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import nodejobs
from harness import (PYTHON, Missing, attack, cli, end, eventually, inside, is_alive, kill, listed, namespaces, suspend,
                     take_pid, untidy, wrong)


def statuses_written(record):
    text = pathlib.Path(record.logdir, "journal.jsonl").read_text()
    return [json.loads(line).get("status") for line in text.splitlines()]


# ------ a monitor is killed ------

LONG = {
    "sleep": ["sleep", "300"],
    "deaf": "trap '' TERM; while :; do sleep 0.05; done",
    "scrubbed": "exec env -i sleep 300",
    "tree": "sleep 300 & sleep 300 | sleep 300",
    "its first thread has ended": [PYTHON, "-c", "import ctypes, threading, time\n"
                                   "threading.Thread(target=time.sleep, args=(300,)).start()\n"
                                   "ctypes.CDLL(None).pthread_exit(None)"],
}
DELAYS = (0, 0.01, 0.05, 0.3)


def expect_orphan(jobs, job_id):
    """Ask everything of a job whose monitor is dead and whose command lives; return what is wrong."""
    record = jobs.get_status(job_id)
    problems = wrong(record, status=("running", "stopping"), monitored=False, exit_code=None, signal=None,
                     ended_at=None)
    told, more = listed(jobs.db_path)
    problems += more + wrong(told[job_id], status=record.status, monitored=False)
    problems += wrong(jobs.wait(job_id, 0.02), status=record.status)
    for act in (lambda: jobs.run("true", job_id), lambda: jobs.remove(job_id)):
        try:
            act()
            problems.append("it was started again, or removed, while its command lives")
        except nodejobs.JobRunning:
            pass
    fresh = jobs.run(record.command, job_id, fresh_for=60)
    problems += ["with fresh_for another run was started"] * (fresh.run != record.run)
    problems += ["prune took it"] * any(old.self_id == job_id for old in jobs.prune(keep=0))
    return problems


def expect_lost(jobs, record, before=("running",)):
    """Ask everything of a job whose monitor and command are dead; return what is wrong."""
    job_id = record.self_id
    told = jobs.wait(job_id, 20)
    problems = wrong(told, status="lost", exit_code=None, signal=None, monitored=None, ended_at=None)
    problems += ["no reason is told"] * (not told.error)
    problems += wrong(jobs.stop(job_id, grace=0), status="lost")
    problems += ["written: %s" % statuses_written(record)] * (statuses_written(record)[-1] not in before)
    problems += untidy(cli(jobs.db_path, "wait", job_id), [125])
    again = jobs.run("exit 3", job_id, fresh_for=60, startsecs=20)
    return problems + wrong(again, run=record.run + 1, status="failed", exit_code=3)


def orphaned(jobs, command, job_id, delay):
    record = jobs.run(command, job_id, startsecs=0)
    time.sleep(delay)  # the moment is what is tried
    kill(record.monitor_pid)
    eventually(lambda: not is_alive(record.monitor_pid))
    return record


def stopped_orphan(jobs, command, delay):
    record = orphaned(jobs, command, "a", delay)
    problems = expect_orphan(jobs, "a")
    problems += wrong(jobs.stop("a", grace=0.2), status="stopped", exit_code=None, signal=None)
    problems += wrong(jobs.get_status("a"), status="stopped", exit_code=None, signal=None)
    problems += ["the command lives"] * is_alive(record.last_pid)
    told = jobs.get_status("a") or {}
    problems += ["that its exit code is unknown is not told"] * ("unknown" not in (told.get("error") or ""))
    return problems


def lost_orphan(jobs, command, delay):
    record = orphaned(jobs, command, "a", delay)
    problems = expect_orphan(jobs, "a")
    end([record.last_pid])
    return problems + expect_lost(jobs, record)


def both_orders(jobs, command, delay):
    problems = []
    for job_id, suspended in (("a", False), ("b", True)):
        record = jobs.run(command, job_id, startsecs=0)
        time.sleep(delay)
        if suspended:
            suspend(record.monitor_pid)  # so it cannot write what it learns
        kill(record.last_pid)
        eventually(lambda: not is_alive(record.last_pid))
        kill(record.monitor_pid)
        eventually(lambda: not is_alive(record.monitor_pid))
        if suspended:
            problems += expect_lost(jobs, record)
        else:  # it may have come to write one line, or both
            problems += wrong(jobs.get_status(job_id), status=("failed", "lost"), exit_code=None)
    return problems


def killed_in_stop(jobs, command, delay):
    """Kill the monitor while a stop waits for its grace."""
    record = jobs.run("trap '' TERM; while :; do sleep 0.05; done", "a", startsecs=0)
    stopper = subprocess.Popen([PYTHON, nodejobs.__file__, "--db", jobs.db_path, "stop", "--grace",
                                "1", "a"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: jobs.get_status("a").status == "stopping")
    time.sleep(delay)
    kill(record.monitor_pid)
    eventually(lambda: not is_alive(record.monitor_pid))
    problems = expect_orphan(jobs, "a") if is_alive(record.last_pid) else []
    code = stopper.wait(60)
    problems += ["the stop exits with %d" % code] * (code != 0) + ["the command lives"] * is_alive(record.last_pid)
    return problems + wrong(jobs.get_status("a"), status="stopped", exit_code=None, signal=None)


@attack("truth: the monitor is killed")
def monitor_killed(room):
    blows = [stopped_orphan, lost_orphan, both_orders]
    cases = [(blow, kind, delay) for kind in LONG for blow in blows for delay in DELAYS]
    cases += [(killed_in_stop, "deaf", delay) for delay in DELAYS]
    for number, (blow, kind, delay) in enumerate(room.pick(cases, 9)):
        jobs = nodejobs.Jobs(room.path / str(number))
        problems = blow(jobs, LONG[kind], delay)
        for record in jobs.list_status().values():
            jobs.stop(record.self_id, grace=0)
            for run in jobs.history(record.self_id):
                kill_own(run)
        yield "%s, %s, after %g s" % (blow.__name__.replace("_", " "), kind, delay), problems


def kill_own(record):
    """Kill what a run of this boot may still have, if its pid is certainly its own."""
    if record.last_pid and nodejobs.platform.is_command(nodejobs.Run(record)):
        end([record.last_pid])


# ------ a reboot ------

def after_reboot(path, job_id):
    """Ask about a job in another boot; return the answers."""
    fake = pathlib.Path(path + ".boot-id")
    fake.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    subprocess.run(["mount", "--bind", str(fake), "/proc/sys/kernel/random/boot_id"], check=True)
    answers = {}
    for verb in (["status", "--json"], ["stop", "--grace", "0"], ["status", "--json"], ["wait", "--timeout", "0.1"],
                 ["run", "--id"]):
        more = ["--", "true"] if verb[0] == "run" else []
        done = cli(path, *verb, job_id, *more)
        name = " ".join(verb)
        answers["again " * (name in answers) + name] = [done.returncode, done.stdout, done.stderr]
    return answers


@attack("truth: a reboot")
def reboot(room):
    words = ["unshare", "--mount"]
    if os.getuid() or not shutil.which("unshare") or subprocess.run(words + ["true"]).returncode:
        raise Missing("root, and mount namespaces")
    cases = [(kind, monitored) for kind in ("sleep", "deaf", "tree") for monitored in (False, True)]
    for number, (kind, monitored) in enumerate(room.pick(cases, 4)):
        jobs = nodejobs.Jobs(room.path / str(number))
        record = jobs.run(LONG[kind], "a", startsecs=0)
        if not monitored:
            end([record.monitor_pid])
        answers = inside(words, after_reboot, jobs.db_path, "a")
        problems, expected = [], "running" if monitored else "lost"
        if isinstance(answers, list):
            yield "broken", answers
            continue
        for name in ("status --json", "again status --json"):
            code, output, errors = answers[name]
            problems += wrong(json.loads(output), status=expected, monitored=True if monitored else None)
        codes = {name: answers[name][0] for name in answers}
        right = {"stop --grace 0": 125 if monitored else 0, "wait --timeout 0.1": 124 if monitored else 125,
                 "run --id": 125 if monitored else 0}
        problems += ["`%s` exits with %d: %s" % (name, codes[name], answers[name][2]) for name in right
                     if codes[name] != right[name]]
        problems += ["the command was signalled"] * (not is_alive(record.last_pid))
        problems += ["a stop was written"] * ("stopping" in statuses_written(record))
        if monitored:
            problems += wrong(jobs.get_status("a"), status="running", monitored=True)
            problems += wrong(jobs.stop("a", grace=0), status="stopped")
        else:
            problems += wrong(jobs.get_status("a", 1), status="running", monitored=False)  # back in the old boot
            nodejobs.platform.end_trees([(nodejobs.Run(record), {})], signal.SIGKILL, 0)
        yield "%s, the monitor %s" % (kind, "lives" if monitored else "was killed"), problems


# ------ a recycled pid ------

def recycled_case(path, name, same_tick, leader):
    """Give a lost command's pid to a stranger; it must not be taken for the command, nor signalled."""
    jobs = nodejobs.Jobs(os.path.join(path, name))
    with contextlib.suppress(PermissionError):  # on a busy machine, nobody else comes to it within a tick
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    for turn in range(200):
        job_id = "a%d" % turn
        record = jobs.run(["sleep", "300"], job_id, startsecs=0)
        kill(record.monitor_pid)
        kill(record.last_pid)
        if not take_pid(record.last_pid, leader):
            continue
        hit = (nodejobs.platform.start_time(record.last_pid) == record.pid_start) == same_tick
        problems = []
        if hit:
            eventually(lambda: not is_alive(record.monitor_pid))
            problems += wrong(jobs.get_status(job_id), status="lost", monitored=None)
            problems += wrong(jobs.wait(job_id, 0.1), status="lost")
            problems += wrong(jobs.stop(job_id, grace=0.2), status="lost")
            time.sleep(0.02)
            problems += ["the stranger was killed"] * (not is_alive(record.last_pid))
        end([record.last_pid])
        os.waitpid(record.last_pid, 0)
        if hit:
            return problems
    return ["the attack is broken: the pid was never taken in time"]


def recycled_monitor(path, name):
    """Give the dead monitor's pid to a stranger: not monitored, and stop ends the command only."""
    jobs = nodejobs.Jobs(os.path.join(path, name))
    record = orphaned(jobs, ["sleep", "300"], "a", 0)
    if not take_pid(record.monitor_pid):
        return ["the attack is broken: the pid was not to be had"]
    problems = expect_orphan(jobs, "a") + wrong(jobs.stop("a", grace=0), status="stopped", exit_code=None)
    problems += ["the stranger was killed"] * (not is_alive(record.monitor_pid))
    return problems + ["the command lives"] * is_alive(record.last_pid)


@attack("truth: a recycled pid")
def recycled(room):
    if not hasattr(os, "posix_spawn"):
        raise Missing("os.posix_spawn, to take a pid in time")
    words = namespaces()
    for turn in range(room.size(10, 1)):
        for tick in (True, False):
            for leader in (True, False):
                if tick and leader and not nodejobs.platform.mark(os.getpid()):
                    continue  # not promised before Linux 6.9 and Python 3.9, which tell these two apart
                name = "%s tick, %s" % ("the same" if tick else "another", "a leader" if leader else "no leader")
                store = "%d-%d-%d" % (turn, tick, leader)
                yield name, inside(words, recycled_case, str(room.path), store, tick, leader)
        yield "the monitor's", inside(words, recycled_monitor, str(room.path), "monitor-%d" % turn)
