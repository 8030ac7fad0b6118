#!/usr/bin/env python3
"""Show the table of `nodejobs list` in place and up to date, until you type q.

    python3 top.py
    python3 top.py --status running,queued --id 'backup-*'

It takes the options of `list` (--db, --status, --id, -n) and needs a terminal of POSIX. Ctrl-Z suspends it.
Copy it beside nodejobs.py.
"""
import contextlib
import io
import os
import re
import select
import signal
import sys
import time

try:
    import termios
    import tty
except ImportError:  # a minimal Python: Ctrl-C ends it, and no other key does
    termios = None

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import nodejobs  # noqa: E402

ENTER = "\033[?1049h\033[?25l\033[?7l"  # the other screen, no cursor, no wrapped lines
LEAVE = "\033[?7h\033[?25h\033[?1049l"
COLOUR = re.compile("\033\\[[0-9]*m")
# In a row of the table, only the status has a colour.
STATUS = re.compile("\033\\[[1-9][0-9]*m(\\w+)")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)


class Page(io.StringIO):
    """What `list` takes for a terminal."""

    encoding = sys.stdout.encoding

    def isatty(self):
        return True


class Failed(Exception):
    """`list` could not do it: its exit code, and what it said."""


def look(words, columns):
    """Return the lines of `list` for a terminal of so many columns: the titles, and a line for each job."""
    os.environ["COLUMNS"] = str(columns)
    page, complaints = Page(), Page()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(complaints):
        code = nodejobs.main(["list"] + words)
    if code:
        raise Failed(code, complaints.getvalue())
    return page.getvalue().splitlines()


def picture(words, key, coloured):
    """Return what is to be written on the terminal, over the last picture, in one piece."""
    size = os.get_terminal_size(sys.stdout.fileno())
    columns, height = size.columns or 80, size.lines or 24
    titles, jobs = [], []
    table = look(words, columns)
    if table:
        titles, jobs = table[:1], table[1:]

    counts = {}
    for line in jobs:
        for status in STATUS.findall(line):
            counts[status] = counts.get(status, 0) + 1
    head = "%s  %s quits  %d job%s" % (time.strftime("%H:%M:%S"), key, len(jobs), "" if len(jobs) == 1 else "s")
    head += "".join(", %d %s" % (counts[status], status) for status in sorted(counts))

    rows = height - 2
    shown = jobs if len(jobs) <= rows else jobs[-max(rows - 1, 1):]
    lines = [head[:columns]] + titles + shown
    if len(shown) < len(jobs):
        lines.append(("... and %d more, started earlier" % (len(jobs) - len(shown)))[:columns])
    lines = lines[:height]
    if not coloured:
        lines = [COLOUR.sub("", line) for line in lines]
    # Each line is erased before it is written: at the last column, the cursor stands on the last character.
    text = "\033[H" + "\n".join("\033[K" + line for line in lines)
    return text + ("\n\033[J" if len(lines) < height else "")


class Terminal:
    """The terminal while we draw on it, with the signals that end, suspend or resize us."""

    def __init__(self):
        self.keys = sys.stdin.fileno() if termios and sys.stdin and sys.stdin.isatty() else None
        self.before = None if self.keys is None else termios.tcgetattr(self.keys)
        # Handlers that do nothing, and a pipe that tells the loop: so none can strike while the terminal is restored.
        self.told, self.teller = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.handlers = {number: signal.signal(number, lambda *_: None) for number in NUMBERS}
        self.wakeup = signal.set_wakeup_fd(self.teller)

    def __enter__(self):
        self.take()
        return self

    def __exit__(self, *error):
        self.give_back()
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        os.close(self.told)
        os.close(self.teller)

    def take(self):
        if self.keys is not None:
            tty.setcbreak(self.keys)
        sys.stdout.write(ENTER)

    def give_back(self):
        try:
            sys.stdout.write(LEAVE)
            sys.stdout.flush()
        finally:
            if self.keys is not None:
                termios.tcsetattr(self.keys, termios.TCSADRAIN, self.before)

    def suspend(self):
        self.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, lambda *_: None)
        self.take()

    def pause(self, seconds):
        """Wait for a key or a signal; return the exit code if it ends us, else None."""
        sources = [self.told] if self.keys is None else [self.told, self.keys]
        ready = select.select(sources, [], [], seconds)[0]
        if self.keys in ready:
            typed = os.read(self.keys, 1024) or b"q"  # nothing: it has hung up
            if b"q" in typed.lower():
                return 0
        for number in os.read(self.told, 1024) if self.told in ready else b"":
            if number == signal.SIGTSTP:
                self.suspend()
            elif number != signal.SIGWINCH:
                return 128 + number
        return None


def watch(words, coloured):
    """Draw until something ends us; return the exit code."""
    with Terminal() as terminal:
        key = "Ctrl-C" if terminal.keys is None else "q"
        while True:
            began = time.process_time()
            text = picture(words, key, coloured)
            encoding = sys.stdout.encoding
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()

            # A look at very many jobs takes long, so it is taken less often: never more than a fiftieth of a core.
            code = terminal.pause(min(max(1.0, 60 * (time.process_time() - began)), 30.0))
            if code is not None:
                return code


def main(words):
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        print("top.py draws on a terminal; `nodejobs list` prints the jobs once", file=sys.stderr)
        return 2
    if "--json" in words:
        print("top.py draws a table; `nodejobs list --json` prints the jobs once", file=sys.stderr)
        return 2
    coloured = os.environ.pop("NO_COLOR", None) is None
    try:
        look(words, 80)  # what is wrong with the words is said before anything is drawn
        return watch(words, coloured)
    except Failed as error:
        code, text = error.args
        sys.stderr.write(text)
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
