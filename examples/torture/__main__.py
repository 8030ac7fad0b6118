"""Attack every promise that nodejobs makes, and count.

    make torture                                  everything, at full size
    python3 examples/torture                      the same
    python3 examples/torture --quick ATTACK...    a quick cut of these

It prints a line for every attack: how many cases were tried, how many violated a promise, and how long
it took. Every violation is told on stderr; then the exit code is 1. What cannot be had on this machine
is shown as "not run", with the reason.

It needs Linux, and for all of it root, strace, gcc and util-linux (unshare, mount, setpriv).
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import harness
from harness import ATTACKS, Missing, Room, end, processes_of

for name in sorted(os.listdir(str(harness.HERE))):  # every other file here enters its attacks in the register
    if name.endswith(".py") and name not in ("__main__.py", "harness.py"):
        __import__(name[:-3])


def run_one(name, full, seed, most):
    """Run one attack in this process, of its cases at most so many; return its line of the table."""
    path = tempfile.mkdtemp(prefix="torture-", dir=os.environ.get("TMPDIR") or "/tmp")
    os.environ["TORTURE"] = path  # whatever it starts has it, monitors too
    began, cases, violations, missing = time.monotonic(), 0, [], None
    try:
        for case, problems in itertools.islice(ATTACKS[name](Room(path, full, seed)), most):
            cases += 1
            if problems:
                violations.append("%s: %s: %s" % (name, case, "; ".join(problems)))
    except Missing as error:
        missing = str(error)
    finally:
        left = [pid for entry in os.listdir(path) for pid in processes_of(os.path.join(path, entry))]
        if left:
            violations.append("%s: processes left at the end: %s" % (name, left))
            end(left)
        shutil.rmtree(path, ignore_errors=True)
    return {"attack": name, "cases": cases, "violations": violations, "missing": missing,
            "seconds": time.monotonic() - began}


def run_apart(name, options):
    """Run one attack in a process of its own, so that none can disturb the count of another."""
    words = [sys.executable, str(harness.HERE), "--one", name, "--seed", str(options.seed)]
    words += ["--quick"] * options.quick + (["--cases", str(options.cases)] if options.cases else [])
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"attack": name, "cases": 0, "violations": ["%s: it broke: %s" % (name, done.stderr[-3000:])],
                "missing": None, "seconds": 0}


def main():
    parser = argparse.ArgumentParser(description="Attack every promise that nodejobs makes, and count.")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="only those whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="a quick cut of each")
    parser.add_argument("--seed", type=int, default=20261124, help="of all that is random; default %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="attacks at a time; default %(default)s")
    parser.add_argument("--list", action="store_true", help="name the attacks")
    parser.add_argument("--cases", type=int, metavar="N", help="at most so many cases of each")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the first whose name begins so, as JSON
    options = parser.parse_args()
    if options.one:
        name = next(name for name in ATTACKS if name.startswith(options.one))
        print(json.dumps(run_one(name, not options.quick, options.seed, options.cases)))
        return 0
    names = [name for name in ATTACKS if not options.attacks or any(text in name for text in options.attacks)]
    if options.list or not names:
        print("\n".join(names or ATTACKS))
        return 0 if names else 2
    bad = False
    row = "%-44s %8s %10s %8s"
    print(row % ("attack", "cases", "violations", "seconds"), flush=True)
    total = [0, 0]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda name: run_apart(name, options), names):
            violations = result["violations"]
            if not result["cases"] and not result["missing"] and not violations:
                violations = ["%s: it tried nothing" % result["attack"]]
            print(row % (result["attack"], result["cases"], len(violations), "%.0f" % result["seconds"])
                  + ("  not run: %s" % result["missing"] if result["missing"] else ""), flush=True)
            for violation in violations:
                print("  " + violation, file=sys.stderr, flush=True)
            total[0] += result["cases"]
            total[1] += len(violations)
            bad = bad or bool(violations)
    print(row % ("all", total[0], total[1], ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
