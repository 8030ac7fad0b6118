"""pytest, its tests shared out among a few processes; output, summary and exit code are those of one pytest.

    .venv/bin/python .ci/side_by_side.py -q test_nodejobs.py     words as pytest takes them

pytest collects, then forks. Each worker takes the next test that nobody has taken, until there is none, and sends its
reports to the first process. That one runs no test: it treats the reports as if the tests had been its own.
"""
import multiprocessing
import multiprocessing.connection
import os
import signal
import struct
import sys
import traceback

import pytest
from _pytest import runner

WORKERS = (os.cpu_count() or 1) + 1  # tests wait for processes much of their time
NUMBER = struct.Struct("=I")


class Worker:
    """A plugin that runs in each forked process, in place of what shows reports there."""

    def __init__(self, session, tests, reports):
        self.session, self.tests, self.reports = session, tests, reports
        signal.signal(signal.SIGINT, self.interrupt)
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(self)
        capture = plugins.getplugin("capturemanager")  # into a file of its own
        capture.stop_global_capturing()
        capture.start_global_capturing()

    def interrupt(self, *_):
        # Once: at a terminal, the first process tells us what the terminal has told us already. No SIG_IGN, which the
        # processes of the tests would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        raise KeyboardInterrupt

    def next_test(self):
        data = os.read(self.tests, NUMBER.size)
        return self.session.items[NUMBER.unpack(data)[0]] if data else None

    def run(self):
        try:
            test = self.next_test()
            while test is not None:
                following = self.next_test()  # tells pytest which fixtures have to stay
                test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
                test = following
        except KeyboardInterrupt:
            runner.pytest_sessionfinish(self.session)  # ends the fixtures, and with them what the test has started
        except BrokenPipeError:  # the first process is gone
            runner.pytest_sessionfinish(self.session)
        except BaseException:
            self.reports.send(("broke", traceback.format_exc()))

    def pytest_runtest_logstart(self, nodeid, location):
        self.reports.send(("logstart", dict(nodeid=nodeid, location=location)))

    def pytest_runtest_logreport(self, report):
        self.reports.send(("logreport", self.session.config.hook.pytest_report_to_serializable(
            config=self.session.config, report=report)))

    def pytest_runtest_logfinish(self, nodeid, location):
        self.reports.send(("logfinish", dict(nodeid=nodeid, location=location)))


class SideBySide:
    """A plugin of the first process: it starts the workers and shows what they report."""

    def pytest_runtestloop(self, session):
        if session.config.option.collectonly or session.testsfailed:
            return None
        self.session, self.workers = session, {}
        session.config._tmp_path_factory.getbasetemp()  # one for all
        self.tests, filling = os.pipe()
        os.write(filling, b"".join(map(NUMBER.pack, range(len(session.items)))))
        os.close(filling)
        try:
            for _ in range(WORKERS):
                self.start_worker()
            while self.workers:
                for reports in multiprocessing.connection.wait(list(self.workers)):
                    self.receive(reports)
                if session.shouldfail or session.shouldstop:
                    self.leave_the_rest()
        finally:
            self.leave_the_rest()
            for pid, _ in self.workers.values():
                os.kill(pid, signal.SIGINT)
            for reports, (pid, _) in self.workers.items():
                reports.close()
                os.waitpid(pid, 0)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def start_worker(self):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            try:
                for reports in [ours, *self.workers]:
                    reports.close()
                Worker(self.session, self.tests, theirs).run()
            finally:
                os._exit(0)
        theirs.close()
        self.workers[ours] = pid, None

    def receive(self, reports):
        """Show one report of a worker, or see that it has ended."""
        pid, current = self.workers[reports]
        hook, config = self.session.config.hook, self.session.config
        try:
            kind, content = reports.recv()
        except EOFError:
            del self.workers[reports]
            status = os.waitpid(pid, 0)[1]
            if current:
                hook.pytest_runtest_logreport(report=pytest.TestReport(
                    keywords={}, outcome="failed", when="call", sections=[], duration=0, start=0, stop=0,
                    longrepr="the process that ran this test ended, with status %d" % status, **current))
            return
        if kind == "broke":
            raise RuntimeError("a worker broke:\n" + content)
        if kind == "logreport":
            hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=config, data=content))
        else:
            self.workers[reports] = pid, content if kind == "logstart" else None
            getattr(hook, "pytest_runtest_" + kind)(**content)

    def leave_the_rest(self):
        """Take all tests that nobody has begun."""
        while os.read(self.tests, 1 << 16):
            pass


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:], plugins=[SideBySide()]))
