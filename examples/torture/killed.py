"""Kill every process that has a part in a job at every system call that it makes, one run per call.

A dry run under strace tells which calls there are; then each is struck once, by strace's fault injection.
Launcher, stopper and remover are started under strace. The processes of the monitor are met at a gate: a
wrapper in place of the monitor's Python stops the chosen one (the starter, the monitor that it forks, the
child that becomes the command) until strace is attached to it and to no other.

What is true is judged by witness files that the command writes, and by /proc. See errors.py for the same
with errors instead of the kill.
"""
import collections
import concurrent.futures
import re
import shutil
import subprocess

from harness import Missing, attack, eventually
from struck import DEPTHS, Blow, Case

DULL = set("mmap munmap mprotect mremap brk madvise futex prlimit64 rt_sigprocmask getpid restart_syscall exit_group "
           "clock_nanosleep preadv preadv2 lseek getcwd sigaltstack getuid ioctl uname getrandom getegid "
           "geteuid".split())
SAMPLED = {"rt_sigaction": 4, "strangers": 5}  # one call like the others, many times over: so many of them
Call = collections.namedtuple("Call", "name ordinal text own")


def survey(room, role, command, stopped=False, own=False):
    """Return the calls that the role makes from the first one that touches the store, by a dry run."""
    case = Case(room, "dry-%s-%s-%d%d" % (role, command, stopped, own), role, command)
    try:
        case.asked = stopped
        case.strike(Blow(None, None, "", own))
        if role == "monitor" and command == "long" and not stopped:  # it lives on, and waits
            eventually(lambda: ("running" if own else "wait4(") in case.log.read_text(errors="replace"))
        lines = case.log.read_text(errors="replace").splitlines()
        mark = "preadv" if role in DEPTHS else str(case.store)
        seen = [number for number, line in enumerate(lines) if mark in line]
        first = (seen[-1] + 1 if role in DEPTHS else seen[0]) if seen else len(lines)
        its, counts, calls = "/proc/%s/" % case.truth().pid, collections.Counter(), []
        for number, line in enumerate(lines):
            name = re.match(r"(\w+)\(", line)
            if name:
                counts[name.group(1)] += 1
                if number >= first:
                    text = line.replace(str(case.store), "STORE").replace(its, "/proc/ITS/")
                    calls.append(Call(name.group(1), counts[name.group(1)], text, own))
        return calls
    finally:
        case.clean()


def calls_of(room, role, command, stopped=False):
    """Return the calls to strike: all, but of long loops a sample."""
    calls = survey(room, role, command, stopped)
    if role == "stopper":  # it looks at every process of the machine: its own ones are counted by their paths
        loops = [call for call in calls if re.search(r"/proc/\d+[/>]|/proc/\d+\"", call.text)]
        calls = [call for call in calls if "STORE" not in call.text and "/proc" not in call.text]
        calls += room.random.sample(loops, min(len(loops), SAMPLED["strangers"]))
        calls += survey(room, role, command, own=True)
    loop = [call for call in calls if call.name == "rt_sigaction"]
    loop = loop[::max(1, len(loop) // SAMPLED["rt_sigaction"])]
    return [call for call in calls if call.name != "rt_sigaction"] + loop


def strike_every(plan, name_of, case_of, codes, few):
    """Strike by every item of a plan, each in a case of its own, which has its blow; yield what the frame wants.

    Of 20 blows, so many as `few` may miss.
    """
    missed = []

    def one(numbered):
        number, item = numbered
        for attempt in range(3):  # a call that depends on timing or on other processes may not come every time
            case = case_of(number if not attempt else "%d-%d" % (number, attempt), *item)
            try:
                completed = case.strike(case.blow)
                if case.struck:
                    return name_of(*item), case.judge(completed, codes)
            except subprocess.TimeoutExpired as error:
                return name_of(*item), ["it hangs: %s" % error]
            finally:
                case.clean()
        return name_of(*item), None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, problems in pool.map(one, enumerate(plan)):
            if problems is None:
                missed.append(name)
            else:
                yield name, problems
    yield "every blow has hit", ["%d of %d did not: %s" % (len(missed), len(plan), missed[:5])] * (
        len(missed) * 20 > len(plan) * few + 20)


def strike_all(room, plan, codes):
    """Strike every blow of a plan of (role, command, stopped, blow, what); yield what the frame wants."""
    def name_of(role, command, stopped, blow, what):
        return "%s of %s%s, %s %s %s %s" % (
            role, command, " stopped" * stopped, blow.how, blow.call, blow.when, what[:90])

    def case_of(number, role, command, stopped, blow, what):
        case = Case(room, number, role, command)
        case.asked, case.blow = stopped, blow
        return case
    # A stopper looks as often as it must, and a launcher need not wait for what has ended by then.
    return strike_every(plan, name_of, case_of, codes, 3 if plan[0][0] in ("stopper", "launcher") else 1)


SCENES = {"launcher": [("long", False), ("short", False)],
          "starter": [("long", False)],
          "monitor": [("long", False), ("short", False), ("failing", False), ("long", True)],
          "child": [("long", False), ("short", False)],
          "stopper": [("long", False), ("stubborn", False)],
          "remover": [("short", False)]}


def cut(room, plan):
    """Return the whole plan at full size; else a cut, without what only looks or closes."""
    if not plan:
        raise Missing("CPython: by its calls such a process is told from others")
    if not room.full:
        dull = ("close", "newfstatat", "getdents64", "rt_sigaction", "read")
        plan = [entry for entry in plan if entry[3].call not in dull]
    return room.pick(plan, 14)


def need_strace():
    if not shutil.which("strace"):
        raise Missing("strace (apt-get install strace)")
    if subprocess.run(["strace", "-qqq", "-o", "/dev/null", "true"], stderr=subprocess.DEVNULL).returncode:
        raise Missing("strace may not trace here")


def register(role):
    @attack("killed: " + role)
    def killed(room):
        need_strace()
        plan = []
        for command, stopped in SCENES[role]:
            for call in calls_of(room, role, command, stopped):
                if call.name not in DULL and "/lib/python" not in call.text:
                    blow = Blow(call.name, call.ordinal, "signal=KILL", call.own)
                    plan.append((role, command, stopped, blow, call.text))
        codes = [-9] if role not in DEPTHS else [0, 125, 126, 127]
        yield from strike_all(room, cut(room, plan), codes)


for name in SCENES:
    register(name)
