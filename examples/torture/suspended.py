"""What is suspended is told truthfully: a job whose processes are stopped, a monitor that cannot write."""
import os
import pathlib
import signal

import nodejobs
from harness import ACTIVE, attack, cli, end, eventually, is_alive, kill, listed, state_of, suspend, untidy, wrong


def suspended_job(jobs, line, tree):
    """Suspend a command, all its tree or only its children: it runs, and that it is suspended is told."""
    record = jobs.run(line, "a", startsecs=0)
    root = record.last_pid
    children = eventually(lambda: [int(pid) for pid in pathlib.Path(
        "/proc/%d/task/%d/children" % (root, root)).read_text().split()])
    victims = {"all": [root] + children, "command": [root], "children": children}[tree]
    expected = tree != "children"
    problems = wrong(jobs.get_status("a"), status="running", suspended=(False, None))
    for pid in victims:
        suspend(pid)
    told, more = listed(jobs.db_path)
    for seen in (jobs.get_status("a"), told["a"]):
        problems += more + wrong(seen, status="running", monitored=True, exit_code=None,
                                 suspended=True if expected else (False, None))
    problems += wrong(jobs.wait("a", 0.05), status="running")
    for pid in victims:
        kill(pid, signal.SIGCONT)
    eventually(lambda: state_of(root) != "T")
    return problems + wrong(jobs.get_status("a"), status="running", suspended=(False, None)), victims


def suspension_case(jobs, line, tree, what):
    problems, victims = suspended_job(jobs, line, tree)
    if what == "goes on":
        pathlib.Path(jobs.db_path + ".fifo").write_text("go\n")
        ended = jobs.wait("a", 30)
        return problems + wrong(ended, status="failed", exit_code=7, suspended=(False, None))
    for pid in victims:
        suspend(pid)
    if what == "the monitor is killed":
        record = jobs.get_status("a")
        end([record.monitor_pid])
        told = jobs.get_status("a")
        problems += wrong(told, status="running", monitored=False,
                          suspended=True if tree != "children" else (False, None))
    ended = jobs.stop("a", grace=10 if what != "killed" else 0)
    problems += wrong(ended, status="stopped", suspended=(False, None))
    if what == "stopped":
        problems += wrong(ended, signal="SIGTERM")  # so it was woken to hear it
    return problems


@attack("truth: a suspended job")
def job_suspended(room):
    line = "sleep 300 & read go < %s.fifo; exit 7"
    cases = [(tree, what) for tree in ("all", "command", "children")
             for what in ("goes on", "stopped", "killed", "the monitor is killed")] * room.size(3, 1)
    for number, (tree, what) in enumerate(room.pick(cases, 8)):
        jobs = nodejobs.Jobs(room.path / str(number))
        os.mkfifo(jobs.db_path + ".fifo")
        try:
            problems = suspension_case(jobs, line % jobs.db_path, tree, what)
        finally:
            jobs.stop("a", grace=0)
        yield "%s suspended, %s" % (tree, what), problems


def suspended_monitor(jobs, line, code, what):
    """Suspend the monitor while its command ends: nobody says how before it is written."""
    record = jobs.run(line, "a", startsecs=0)
    suspend(record.monitor_pid)
    try:
        pathlib.Path(record.logdir, "go").write_text("")
        eventually(lambda: not is_alive(record.last_pid))
        problems = []
        for _ in range(3):
            told, more = listed(jobs.db_path)
            for seen in (jobs.get_status("a"), told.get("a", {}), jobs.wait("a", 0.02)):
                problems += more + wrong(seen, status="running", exit_code=None, ended_at=None)
        if what == "stop":
            nodejobs.KILL_SECONDS = 0.3
            try:
                problems.append("stop does not complain: %r" % jobs.stop("a", grace=0.1))
            except nodejobs.CannotStop as error:
                problems += [] if "kill -CONT %d" % record.monitor_pid in str(error) else [str(error)]
            problems += wrong(jobs.get_status("a"), status=ACTIVE, exit_code=None)
        if what == "the command line's stop":
            problems += untidy(cli(jobs.db_path, "stop", "--grace", "0", "a", timeout=30), [125])
        if what == "kill":
            end([record.monitor_pid])
            return problems + wrong(jobs.wait("a", 20), status="lost", exit_code=None)
    finally:
        kill(record.monitor_pid, signal.SIGCONT)
    ended = jobs.wait("a", 30)
    natural = "finished" if code == 0 else "failed"
    return problems + wrong(ended, status=(natural, "stopped") if "stop" in what else natural, exit_code=code)


@attack("truth: a suspended monitor")
def monitor_suspended(room):
    line = "while ! [ -e %s/a/000001/go ]; do sleep 0.02; done; exit %d"
    cases = [(what, code) for what in ("wait", "stop", "kill", "the command line's stop") for code in (0, 3)]
    for number, (what, code) in enumerate(room.pick(cases * room.size(3, 1), 4)):
        jobs = nodejobs.Jobs(room.path / str(number))
        yield "%s, exit code %d" % (what, code), suspended_monitor(jobs, line % (jobs.db_path, code), code, what)
