#!/usr/bin/env micropython
"""Read a store of nodejobs with MicroPython (unix port) or any Python: what ran, how it went, what it said last.

    micropython micropython_status.py [--db DIR] [ID [LINES]]

Without an ID, a table of all jobs; with one, its record and the last LINES (10) of its logs. It does not use
nodejobs.py. Read from top to bottom, it tells how to read a store in any language; it never writes to one.
One thing is not as safe as there: it opens links and pipes like files, so point it at stores of your own.
"""
import errno
import json
import os
import sys

try:
    import ffi  # MicroPython's way to the C library, whose functions return -1 and set os.errno()
    libc = ffi.open(None)
    lockf, flock = libc.func("i", "lockf", "iiq"), libc.func("i", "flock", "ii")
except ImportError:
    try:
        from fcntl import flock
        from os import lockf  # both raise OSError
    except ImportError:
        lockf = flock = None  # Windows, or MicroPython built without ffi: nobody to ask
F_TEST, LOCK_SHARED_NOW = 3, 1 | 4
NO_NAN = {} if sys.implementation.name == "micropython" else {"parse_constant": int}  # NaN is no JSON: int refuses it

ENDED = ("finished", "failed", "stopped", "failed_start", "lost")
UNSAFE = ((0, 31), (127, 159), (0xAD, 0xAD), (0x61C, 0x61C), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F),
          (0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF0, 0xFFFB), (0xE0000, 0xE0FFF))  # they move, reorder, hide
TAIL_BYTES = 65536  # of a log are looked at: MicroPython's heap is 2 MB


def text_of(raw):
    try:
        return raw.decode("utf-8", "surrogateescape")
    except UnicodeError:  # MicroPython has no error handlers
        return "".join([chr(byte if byte < 128 else 0xDC00 + byte) for byte in raw])


def printable(value):
    """Escape what could act on a terminal; join surrogate pairs, which MicroPython's json leaves apart."""
    text = " ".join([str(word) for word in value]) if isinstance(value, list) else str(value)
    if all(" " <= char <= "~" for char in text):
        return text
    codes = []
    for char in text:
        code = ord(char)
        if codes and 0xD800 <= codes[-1] < 0xDC00 <= code < 0xE000:
            code += 0x2400 + ((codes.pop() - 0xD800) << 10)
        codes.append(code if code < 0x110000 else 0xFFFD)  # MicroPython decodes even what Unicode does not have
    return "".join([repr(chr(code))[1:-1] if any([first <= code <= last for first, last in UNSAFE]) else chr(code)
                    for code in codes])


def names_in(directory):
    """List a directory, sorted; as bytes, for MicroPython fails at names that are no UTF-8. Ours are ASCII."""
    names = os.listdir(directory.encode("utf-8", "surrogateescape"))
    names.sort()
    return (name.decode() for name in names if max(name) < 128)


def read(path):
    with open(path, "rb") as file:
        return file.read()


# DB/JOB/RUN/ is a run: 000001, 000002 ... JOB is the id, escaped: +a is A (some file systems ignore case), %20 a blank.

def unescape_id(name):
    raw = bytearray()
    while name:
        size = {"+": 2, "%": 3}.get(name[0], 1)
        raw.append(int(name[1:3], 16) if size == 3 else ord(name[size - 1].upper() if size == 2 else name[0]))
        name = name[size:]
    return text_of(bytes(raw))


# In it, journal.jsonl has a JSON object for every change of state. The record is all of them together. The end is two
# lines, the facts (with "outcome") and the status: while the run's lock is held, the facts count only with the status.

def fold(journal):
    record, facts, damaged = {}, {}, 0
    for line in journal.split(b"\n")[:-1]:  # what follows the last newline is torn
        try:
            entry = json.loads(line.decode(), **NO_NAN) if line.endswith(b"}") else None  # 1.25 adds a missing bracket
        except Exception:  # every Python refuses in its own way
            entry = None
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
            damaged += line.strip() != b""  # passed over: a damaged line must not hide the job
        elif entry.get("status") == "failed_start" and "last_pid" in record and not facts:
            pass  # a launcher gave up too late: once the command's pid is in the journal, it runs
        elif entry.get("status") in ENDED:
            record.update(facts)
            record.update(entry)
            break  # the first end is the end
        elif "outcome" in entry:
            facts = entry
        else:
            record.update(entry)
    if damaged:
        record["damaged"] = damaged
    return record, facts


# A journal without an end: is it running, or lost? The job's lock (DB/JOB/lock) is held by who starts a run, until it
# is known how that went; the run's by its monitor, the parent of the command, until the end is in the journal. The
# kernel frees both when their holder dies. So they are asked, and then the journal once more: an end may have come.
# What is queued begins with "queued", and has no process. If whoever started it died on the way, it is queued again.

def is_held(path, ask, *how):
    """Tell whether another process holds a lock; None if that cannot be known. To read the file is enough to ask."""
    try:
        with open(path, "rb") as file:  # closing it gives back what flock may take
            try:
                code = None if ask is None else 0 if ask(file.fileno(), *how) != -1 else os.errno()
            except OSError as error:
                code = error.errno
            return {0: False, errno.EACCES: True, errno.EAGAIN: True}.get(code)
    except OSError as error:
        return False if error.errno == errno.ENOENT else None


def is_of_this_boot(record):
    try:
        boot_id = read("/proc/sys/kernel/random/boot_id").decode().strip()
        return record.get("boot_id") == "%s pid:[%d]" % (boot_id, os.stat("/proc/self/ns/pid")[1])
    except OSError:
        return False


def surely_runs(record):
    """Tell whether the command's process lives: a pid means something with its start time and boot only."""
    try:
        stat = read("/proc/%d/stat" % record.get("last_pid")).rpartition(b")")[2].split()  # from the third field on
        return is_of_this_boot(record) and int(stat[19]) == record.get("pid_start") and stat[0] not in b"ZX"
    except (OSError, TypeError):
        return False


def read_run(job, number):
    """Return the record of a run; None if nothing was started: its journal has no line, and it has no lock."""
    run, before = "%s/%06d" % (job, number), None
    while True:
        journal = read(run + "/journal.jsonl") if "journal.jsonl" in names_in(run) else b""
        if b"\n" not in journal and "lock" not in names_in(run):
            return None
        record, facts = fold(journal)
        status = record.get("status")
        if status in ENDED or journal == before:
            break
        starting = status == "starting" and is_held(job + "/lock", flock, LOCK_SHARED_NOW)
        monitored = is_held(run + "/lock", lockf, F_TEST, 0)
        before = journal
    if status not in ENDED and status != "queued":
        active = status if status in ("starting", "stopping") else "running"
        if starting or monitored:
            status = "running" if active == "starting" and not starting else active
        elif facts.get("outcome") in ENDED:
            record.update(facts)  # the machine went down between the two lines
            status = facts["outcome"]
        elif surely_runs(record):
            status = "stopping" if active == "stopping" else "running"  # its monitor was killed
        elif starting is None or monitored is None:
            status = active + " or lost"
        elif active == "starting" and "last_pid" not in record:  # a command waits until its pid is in the journal
            # After a reboot nobody knows: a power cut may have taken the line with the pid.
            status = "queued" if "queued_at" in record else "failed_start" if is_of_this_boot(record) else "lost"
        else:
            status = "lost"
    if record.get("format", 1) not in (1, 2):  # 2 may be queued
        record["error"] = "its journal was written by a newer nodejobs"
    record.update({"status": status, "run": number, "logdir": run})
    return record


def newest_run(job):
    """Return the record of a job's newest run; None if there is none, or what is there is no job."""
    number = 0
    try:
        for number in sorted([int(name) for name in names_in(job) if name.isdigit()], reverse=True):
            record = read_run(job, number)
            if record:
                return record
    except OSError as error:
        if number and error.errno != errno.ENOENT:  # else it was removed meanwhile, or is a stranger's file
            return {"status": "unknown", "error": "unreadable", "run": number, "logdir": "%s/%06d" % (job, number)}


def job_names(store):
    """Yield (id, name of its directory) of all jobs."""
    for name in names_in(store):
        try:
            if name[0] != ".":
                yield unescape_id(name), name
        except ValueError:
            pass  # nodejobs makes no such name


# stdout.log and stderr.log are what the command wrote. With max_log the output is in pieces, the oldest of which are
# dropped: stdout.NNN.log, of which NNN (15 digits) bytes came before, and the newest in stdout.log.

def log_names(run, stream):
    return [name for name in names_in(run) if name.startswith(stream + ".")]  # sorted, and so in order


def last_lines(run, stream, lines):
    for _ in range(10):  # again, if the newest became an older one meanwhile
        names, tail = log_names(run, stream), b""
        try:
            for name in reversed(names):
                with open(run + "/" + name, "rb") as file:
                    place = file.seek(0, 2)
                    while place and tail.count(b"\n") <= lines and len(tail) < TAIL_BYTES:
                        size = min(place, 4096)
                        place = file.seek(place - size)
                        tail = file.read(size) + tail
        except OSError:  # it was dropped
            continue
        if log_names(run, stream) == names:
            break
    whole = tail.split(b"\n")
    if whole[-1] == b"":
        whole.pop()
    return whole[max(len(whole) - lines, 0):]


# The rest shows it, line by line: MicroPython's heap is too small, and soon too scattered, for a list of them all.

def row(job_id, *cells):
    return job_id + " " * (20 - len(job_id)) + "  %-12s  %5s  %-19s  %-8s  %s" % cells


def table(store):
    yield row("ID", "STATUS", "RUN", "STARTED (UTC)", "EXIT", "COMMAND")
    for job_id, name in job_names(store):
        record = newest_run(store + "/" + name)
        if record:
            started = printable(record.get("started_at") or "-")[:19].replace("T", " ")
            code = record.get("signal") or record.get("exit_code")
            yield row(printable(job_id), record["status"], record["run"], started,
                      "-" if code is None else printable(code), printable(record.get("command")))


def story(job_id, record, lines):
    yield "id: " + printable(job_id)
    for key in sorted(record):
        if record[key] is not None:
            yield printable(key) + ": " + printable(record[key])
    for stream in ("stdout", "stderr"):
        for number, line in enumerate(last_lines(record["logdir"], stream, lines)):
            if number == 0:
                yield "\nlast lines of %s:" % stream
            yield printable(text_of(line))


def main(words):
    store = os.getenv("NODEJOBS_DB")
    if not store:
        state = os.getenv("XDG_STATE_HOME") or ""
        store = (state if state[:1] == "/" else "%s/.local/state" % os.getenv("HOME")) + "/nodejobs"
    if words[:1] == ["--db"] and len(words) > 1:
        store, words = words[1], words[2:]
    if store[:2] == "~/":
        store = os.getenv("HOME") + store[1:]
    if len(words) > 2 or words and words[0][:1] == "-" or len(words) > 1 and not words[1].isdigit():
        sys.stderr.write("usage: micropython_status.py [--db DIR] [ID [LINES]]\n")
        return 2
    try:
        shown = table(store)
        if words:
            names = [name for job_id, name in job_names(store) if words[0] in (job_id, printable(job_id))]
            record = newest_run(store + "/" + names[0]) if names else None
            if not record:
                sys.stderr.write("there is no job %s in %s\n" % (printable(words[0]), printable(store)))
                return 1
            shown = story(words[0], record, int((words + ["10"])[1]))
        for line in shown:
            sys.stdout.buffer.write(line.encode() + b"\n")  # UTF-8, whatever the locale
        return 0
    except OSError as error:
        if error.errno != 32:  # EPIPE, which MicroPython does not name: who reads our output has enough
            sys.stderr.write("cannot read the jobs in %s: %s\n" % (printable(store), error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


# nodejobs.py itself, tried with MicroPython 1.25.0 and 1.26.1: a copy whose `list`, `status`, `logs` and `history` work
# needed 75 changed lines and 100 of stand-ins for os, errno, time, fcntl, _signal and unicodedata. What stands in the
# way: displays with a star ([a, *b]); two base classes of exceptions; __set_name__, __init_subclass__, __new__ and
# dict.update(self) of dict's children; FileNotFoundError and its siblings; isprintable, isalnum, ljust. Worse, what
# does not fail: encode("unicode_escape") escapes nothing. `run` needs code objects (marshal), subprocess and
# posix_spawn; a monitor of 90 lines on fork, setsid, lockf, execvp and waitpid through ffi works with nodejobs.
