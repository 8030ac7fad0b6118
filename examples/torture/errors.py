"""Fail every system call that can fail on a full or broken disk, or for want of descriptors or processes, one by one.

The frame of killed.py, with an error in place of the kill: the command line ends with 0 (undisturbed), 125 and
one clear line, or 126 or 127 where the start failed; nothing is damaged; and what runs is not disturbed by
anything but what was asked for. A full disk and spent descriptors are tried once, and from that call on.
"""
from harness import attack
from killed import SCENES, calls_of, cut, need_strace, strike_all, survey
from struck import Blow

GROWS = ("mkdir", "write", "pwrite64", "rename", "ftruncate", "fallocate")
DISK = GROWS + ("openat", "read", "pread64", "fsync", "fdatasync", "unlink", "unlinkat", "rmdir", "getdents64",
                "newfstatat")
DESCRIPTORS = ("openat", "pipe2", "dup", "dup2", "dup3", "pidfd_open")
PROCESSES = ("fork", "vfork", "clone", "clone3")


def errors_of(call):
    """Return the errors that a call may meet; one with "+" lasts."""
    errors = []
    if "STORE" in call.text and call.name in DISK:
        errors.append("EIO")
    if "STORE" in call.text and (call.name in GROWS or call.name == "openat" and "O_CREAT" in call.text):
        errors += ["ENOSPC"] + ["ENOSPC+"] * (call.own or call.name == "mkdir")
    if call.name in DESCRIPTORS:
        errors += ["EMFILE"] + ["EMFILE+"] * (call.name != "openat" or call.own or "STORE" in call.text)
    if call.name in PROCESSES:
        errors += ["EAGAIN", "ENOMEM"]
    if call.name == "execve":
        errors += ["EAGAIN", "ENOMEM", "EIO", "ETXTBSY"]
    if call.name == "chdir" and call.text.startswith('chdir("/tmp'):
        errors += ["EIO", "EACCES"]
    return errors


def register(role):
    @attack("errors: " + role)
    def errors(room):
        need_strace()
        plan = []
        for command, stopped in SCENES[role]:
            calls = calls_of(room, role, command, stopped)
            if role in ("launcher", "monitor"):  # counted by path: a lasting error must hit the disk, and no pipe
                calls += [call for call in survey(room, role, command, stopped, own=True) if call.name == "write"]
            for call in calls:
                for error in errors_of(call):
                    when = "%d%s" % (call.ordinal, "+" * ("+" in error))
                    blow = Blow(call.name, when, "error=" + error.rstrip("+"), call.own)
                    plan.append((role, command, stopped, blow, call.text))
        yield from strike_all(room, cut(room, plan), [0, 125, 126, 127] if role == "child" else [0, 125])


for name in SCENES:
    register(name)
