"""Run the tests of nodejobs on every platform that can be had here, and print a table.

    make matrix                                       everything; what is missing is made first, in a cache directory
    .venv/bin/python examples/matrix --quick          everywhere only the tests of the command line
    .venv/bin/python examples/matrix --only 'windows-*,armhf,oldest,newest'

Where pytest can be had for a platform's Python, that runs all tests. On the others pytest runs here, and the tests
drive nodejobs through its command line, run by that Python (see "everywhere" in test_nodejobs.py).

It exits with 1 if a test failed. A platform that cannot be had is shown as missing, with the reason. Debian and root
have them all; ~/.cache/nodejobs-matrix takes about 4 GB. The output of pytest is in its `logs`.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import fnmatch
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

import platforms
from platforms import PLATFORMS, REPOSITORY, Missing

CACHE = os.environ.get("MATRIX_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nodejobs-matrix")
RUNNING = set()  # processes that run tests
MOST_SHOWN = 20  # failures of one platform
ROW = "%-17s %-48s %8s %8s %8s"


def chosen(text):
    """Return the names of platforms that a list of names, globs, "oldest" and "newest" means."""
    if text is None:
        return list(PLATFORMS)
    here, names = list(platforms.cpythons()), []
    for pattern in text.split(","):
        if pattern in ("oldest", "newest") and here:
            pattern = "cpython-" + here[0 if pattern == "oldest" else -1]
        found = fnmatch.filter(PLATFORMS, pattern)
        if not found:
            sys.exit("matrix: there is no platform %r; --list names them" % pattern)
        names += [name for name in found if name not in names]
    return names


def heed_interrupts():
    """Undo what a shell does to what it starts in the background: some tests interrupt what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(process):
    """End the tests of a platform: pytest clears away when it is interrupted."""
    for number, seconds in ((signal.SIGINT, 30), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def test(name, setup, options):
    """Run the tests on a platform; return [(test, "passed" or "failed" or "skipped", reason)].

    Where a platform has faults of its own, as wine does, what failed is tried once more, alone. A test that passes then
    has passed, and its row says that it took two tries.
    """
    outcomes = try_tests(name, setup, options, setup.tests)
    failed = {case: reason for case, outcome, reason in outcomes if outcome == "failed"}
    if setup.shaky and 0 < len(failed) < 4:
        again = dict((case, outcome) for case, outcome, _ in try_tests(
            name, setup, options, ["test_nodejobs.py::TestEverywhere::" + case for case in failed]))
        outcomes = [(case, "passed", "at the second try: " + reason) if again.get(case) == "passed" and case in failed
                    else (case, outcome, reason) for case, outcome, reason in outcomes]
    return outcomes


def try_tests(name, setup, options, tests):
    log = os.path.join(options.cache, "logs", name + ".txt")
    results = os.path.join(REPOSITORY if setup.full else options.cache, ".matrix-%s-%d.xml" % (name, os.getpid()))
    seen = os.path.basename(results) if setup.full else results  # from the platform itself
    words = setup.within + [setup.python, "-m", "pytest", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider",
                            "--junitxml=" + seen, *tests]
    env = {key: value for key, value in os.environ.items() if key[:9] != "NODEJOBS_" and key != "PYTHONPATH"}
    env.update(setup.env, PYTHONDONTWRITEBYTECODE="1")
    with open(log, "wb" if tests is setup.tests else "ab") as file:
        file.write(("$ %s\n" % " ".join(words)).encode())
        file.flush()
        process = subprocess.Popen(
            words + (["-k", options.k] if options.k else []), cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts, start_new_session=True)
    RUNNING.add(process)
    try:
        process.wait(options.limit)
    except subprocess.TimeoutExpired:
        end(process)
        return [("pytest itself", "failed", "it still ran after %d s; see %s" % (options.limit, log))]
    finally:
        RUNNING.discard(process)
    try:
        cases = list(xml.etree.ElementTree.parse(results).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):
        return [("pytest itself", "failed", "it left no results; see " + log)]
    os.remove(results)
    outcomes = []
    for case in cases:
        bad, skipped = case.find("failure"), case.find("skipped")
        bad = case.find("error") if bad is None else bad
        outcome = "failed" if bad is not None else "skipped" if skipped is not None else "passed"
        found = bad if bad is not None else skipped
        outcomes.append((case.get("name"), outcome, "" if found is None else (found.get("message") or "").strip()))
    return outcomes or [("pytest itself", "failed", "it ran no test; see " + log)]


def attempt(name, options):
    """Have a platform, and run the tests there; return its Setup or why it is missing, what came of them, the seconds."""
    began = time.monotonic()
    try:
        setup = PLATFORMS[name][1](options.cache, options.quick)
    except Missing as error:
        return error, [], 0
    if not options.make:
        began = time.monotonic()
    return setup, [] if options.make else test(name, setup, options), time.monotonic() - began


def report(name, setup, outcomes, seconds):
    """Print the row of a platform, and what failed or was skipped there; tell whether anything failed."""
    if isinstance(setup, Missing):
        print(ROW % (name, PLATFORMS[name][0], "missing", "-", "-") + "\n    missing: %s" % setup, flush=True)
        return False
    count = collections.Counter(outcome for _, outcome, _ in outcomes)
    what = setup.what + ("" if setup.full else " *")
    print(ROW % (name, what, "%d/%d" % (count["passed"], len(outcomes)), count["skipped"], "%.0f" % seconds))
    failed = [(case, reason) for case, outcome, reason in outcomes if outcome == "failed"]
    for case, reason in failed[:MOST_SHOWN]:
        print("    failed: %s: %s" % (case, " ".join(reason.split())[:300]))
    for case, outcome, reason in outcomes:
        if outcome == "passed" and reason:
            print("    %s: passed %s" % (case, " ".join(reason.split())[:300]))
    if len(failed) > MOST_SHOWN:
        print("    failed: %d more; see its log" % (len(failed) - MOST_SHOWN))
    reasons = collections.Counter(reason for _, outcome, reason in outcomes if outcome == "skipped")
    for reason, number in reasons.most_common():
        print("    skipped %d: %s" % (number, " ".join(reason.split())[-150:]))
    sys.stdout.flush()
    return bool(failed)


def main():
    parser = argparse.ArgumentParser(description="Run the tests of nodejobs on every platform that can be had here.")
    parser.add_argument("--list", action="store_true", help="name the platforms")
    parser.add_argument("--only", metavar="NAME,...", help="only these; also globs, and `oldest` and `newest` for the "
                                                           "CPythons of this machine")
    parser.add_argument("--quick", action="store_true", help="everywhere only the tests of the command line")
    parser.add_argument("--make", action="store_true", help="make what is missing, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="platforms at a time; default %(default)s")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="for one platform; "
                                                                                     "default %(default)g")
    parser.add_argument("-k", metavar="EXPRESSION", help="only these tests, as pytest takes it")
    parser.add_argument("--cache", default=CACHE, metavar="DIR", help="default %(default)s, or $MATRIX_CACHE")
    options = parser.parse_args()
    options.cache = os.path.abspath(options.cache)
    names = chosen(options.only)
    if options.list:
        for name in names:
            print("%-17s %s" % (name, PLATFORMS[name][0]))
        return 0
    os.makedirs(os.path.join(options.cache, "logs"), exist_ok=True)
    print(ROW % ("platform", "what", "passed", "skipped", "seconds"), flush=True)
    failed = missing = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        attempts = [pool.submit(attempt, name, options) for name in names]
        try:
            for name, future in zip(names, attempts):
                result = future.result()
                failed += report(name, *result)
                missing += isinstance(result[0], Missing)
        except KeyboardInterrupt:
            for future in attempts:
                future.cancel()
            for process in list(RUNNING):
                end(process)
            return 128 + signal.SIGINT
    print("%d platforms, %d failed, %d missing; * the tests of the command line" % (len(names), failed, missing))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
