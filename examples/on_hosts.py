#!/usr/bin/env python3
"""Do any verb of nodejobs on other machines, through ssh, all at once, with nothing to install there.

    python3 on_hosts.py web1,web2 run --id patch --wait -- sudo -n apt-get -qy upgrade
    python3 on_hosts.py web1,web2 list --json
    python3 on_hosts.py web2 logs patch > web2.log

It sends nodejobs.py, which has to lie beside this file, to `ssh HOST python3 -`. Arguments arrive byte for byte; jobs
outlive the connection. `--db` names a directory there, and your local NODEJOBS_DB is ignored.

The output of one host passes through untouched. A comma makes a list (also `web1,`): then lines begin with their host,
and --json, which goes before the `--` of `run`, prints one object: {"web1": ..., "web2": null}; null gave no answer.
On a terminal, control characters are shown and not obeyed, so that no host can rewrite what another has said.

Exit code: the largest; 125 for a host that cannot be reached, or a job's own 255, which looks the same; 2 for a wrong
call. Ctrl-C ends the waiting, here and there, and no job. One host may ask for a password; a list never asks.

$NODEJOBS_SSH is the ssh with its options (`ssh -F config -p 2222`), $NODEJOBS_PYTHON the Python there
(`sudo -n python3`). Where systemd ends a user's processes at logout (KillUserProcesses=yes), say
`loginctl enable-linger` first.
"""
import errno
import os
import select
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PLACES = [os.path.join(HERE, "nodejobs.py"), os.path.join(HERE, "..", "nodejobs.py")]
LONGEST_LINE = 1 << 20  # bytes; what is longer is cut, to keep the lines of several hosts apart in bounded memory
USAGE, FAILED, SIGNALLED = 2, 125, 128

# Goes ahead of nodejobs.py into the Python of another machine: the words, exactly, as no shell there sees them; and
# a lookout that makes a lost connection what Ctrl-C is, so that nobody is left there waiting for a job.
# The directory there is no place to import from: nodejobs.py takes the same path away again.
AHEAD = """\
import sys
_path = sys.path.pop(0)
import os, select, _thread
sys.path.insert(0, _path)
sys.argv[1:] = map(os.fsdecode, %r)
os.environ.update(%r)
_out = select.poll()
_out.register(1, 0)
_thread.start_new_thread(lambda: _out.poll() and os.kill(os.getpid(), 2), ())
"""


class Problem(Exception):
    """What keeps us from beginning."""


def complain(text):
    print("on_hosts: " + printable(text), file=sys.stderr)


def printable(text):
    """Escape what could move the cursor, reorder the line or be no character at all."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def harmless(line, encoding):
    """Escape what would do more on a terminal than be read; tabs may stay."""
    line = line[:-1] if line.endswith(b"\r") else line
    text = line.decode("utf-8", "backslashreplace")
    return "\t".join(map(printable, text.split("\t"))).encode(encoding, "backslashreplace")


def is_host(text):
    """Tell what ssh could take for an option, or a shell for more than a word, from a host."""
    begins = {text[:1], text.rpartition("@")[2][:1]}
    return not begins & {"", "-"} and text.isprintable() and not set(text) & set(" '`\"$\\;&<>|(){}")


def hosts_of(text):
    """Read the hosts of the command line; return them, and whether they are a list: a comma, even the last, makes one."""
    hosts = list(dict.fromkeys((text[:-1] if text.endswith(",") else text).split(",")))
    for host in hosts:
        if not is_host(host):
            raise Problem("%.60r is no host; say web1, or me@web1,web2, as ssh takes them" % host)
    return hosts, "," in text


def terminal_width():
    """Return the columns to fill; None without a terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return None


def script_of(words, prefix):
    """Return what the Python of another machine is given to read; `prefix`: columns that lines begin with here."""
    found = [path for path in PLACES if os.path.exists(path)]
    if not found:
        raise Problem("there is no nodejobs.py beside %s, to send it" % os.path.abspath(__file__))
    with open(found[0], "rb") as file:
        source = file.read()
    environment, columns = {}, terminal_width()
    if columns and "run" not in words:  # a command there has no use for our width
        environment["COLUMNS"] = str(max(columns - prefix, 1))
    return (AHEAD % ([os.fsencode(word) for word in words], environment)).encode() + source


class Pipe:
    """One of the three pipes of an ssh; `rest`: bytes still to be sent, or read and no whole line yet."""

    def __init__(self, ssh, file, rest=b""):
        self.ssh, self.file, self.rest = ssh, file, rest
        os.set_blocking(file.fileno(), False)

    def send(self):
        """Send what fits; tell whether there is more."""
        try:
            self.rest = self.rest[os.write(self.file.fileno(), self.rest):]
        except OSError:  # it has ended without listening to the end
            self.ssh.listened = False
            return False
        return bool(self.rest)

    def receive(self, as_json):
        """Read what there is, and print the lines that are whole; tell whether there may be more."""
        part = os.read(self.file.fileno(), 65536)
        if as_json and self.file is self.ssh.process.stdout:
            self.ssh.answer.append(part)
        else:
            self.print_lines(part)
        return bool(part)

    def print_lines(self, part):
        lines = (self.rest + part).split(b"\n")
        whole = not part or len(lines[-1]) >= LONGEST_LINE  # the last line, which no line break ends
        self.rest = b"" if whole and lines[-1] else lines.pop()
        output = sys.stdout if self.file is self.ssh.process.stdout else sys.stderr
        if output.isatty():
            lines = [harmless(line, output.encoding) for line in lines]
        output.buffer.write(b"".join(os.fsencode(self.ssh.host) + b": " + line + b"\n" for line in lines))
        output.flush()


class Ssh:
    """The ssh to one host. Raises OSError if it cannot be started."""

    def __init__(self, words, host, script, several):
        self.host, self.listened, self.answer = host, True, []
        pipe = subprocess.PIPE if several else None
        self.process = subprocess.Popen(words + [host, os.environ.get("NODEJOBS_PYTHON") or "python3", "-"],
                                        stdin=subprocess.PIPE, stdout=pipe, stderr=pipe)
        self.pipes = [Pipe(self, self.process.stdin, script)]
        if several:
            self.pipes += [Pipe(self, self.process.stdout), Pipe(self, self.process.stderr)]


def start_all(words, hosts, script, several, running):
    """Start the ssh to every host; return the exit code."""
    code = 0
    for host in hosts:
        try:
            running.append(Ssh(words, host, script, several))
        except OSError as error:
            advice = "name your ssh in $NODEJOBS_SSH"
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
                advice = "name fewer hosts at once"
            complain("%s: cannot start %s: %s; %s" % (host, words[0], error.strerror, advice))
            code = FAILED
    return code


def talk(running, as_json):
    """Send the script and print what comes, until every pipe is at its end."""
    poll, pipes = select.poll(), {}
    for ssh in running:
        for pipe in ssh.pipes:
            poll.register(pipe.file, select.POLLOUT if pipe.file is ssh.process.stdin else select.POLLIN)
            pipes[pipe.file.fileno()] = pipe
    while pipes:
        ready = [fd for fd, _ in poll.poll(1000)]
        over = []
        if not ready:
            # A master that ssh leaves behind (ControlPersist) may keep our pipe: then there is no end of file.
            over = [fd for fd in pipes if pipes[fd].ssh.process.poll() is not None]
        for fd in ready:
            pipe = pipes[fd]
            if not (pipe.send() if pipe.file is pipe.ssh.process.stdin else pipe.receive(as_json)):
                over.append(fd)
        for fd in over:
            pipe = pipes.pop(fd)
            poll.unregister(fd)
            if pipe.rest and pipe.file is not pipe.ssh.process.stdin:
                pipe.print_lines(b"")
            pipe.file.close()


def ended(ssh, words, several):
    """Wait for an ssh that has said all; return its exit code."""
    code = ssh.process.wait()
    if code == 255:
        if ssh.listened:
            complain("%s: the connection was lost, or the exit code there is 255; what runs there goes on" % ssh.host)
        else:
            complain("%s: not reached; `%s %s true` has to work%s" % (
                ssh.host, " ".join(words), ssh.host, " without a question" if several else ""))
        return FAILED
    return code if code >= 0 else SIGNALLED - code


def print_json(hosts, running):
    """Print the answers as one object by host; return the exit code."""
    import json  # a minimal Python lacks it
    answers = {ssh.host: b"".join(ssh.answer).decode("utf-8", "replace").strip() for ssh in running}
    code, entries = 0, []
    for host in hosts:
        text = answers.pop(host, "") or "null"
        try:
            value = json.loads(text)
            flat = text.replace("\n", "")
            if not flat.isprintable() or len(flat) != len(flat.encode()):
                text = json.dumps(value)  # ASCII: other JSON may hold what acts on a terminal
        except ValueError:
            complain("%s: its answer is no JSON: %.60r" % (host, text))
            text, code = "null", FAILED
        entries.append("%s: %s" % (json.dumps(host), text))
    print("{%s}" % ",\n ".join(entries))
    return code


def on_hosts(hosts, several, words):
    """Do what the words say on these hosts; return the exit code."""
    before_command = words[:words.index("--")] if "--" in words else words
    as_json = several and "--json" in before_command
    ssh_words = (os.environ.get("NODEJOBS_SSH", "").split() or ["ssh"]) + ["-T"]
    if several:
        ssh_words.append("-oBatchMode=yes")  # nobody could tell which of them asks for a password
    script = script_of(words, max(map(len, hosts)) + 2 if several else 0)
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the exit codes of our children are lost
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us ends the ssh's as well
    running = []
    try:
        code = start_all(ssh_words, hosts, script, several, running)
        talk(running, as_json)
        code = max([code] + [ended(ssh, ssh_words, several) for ssh in running])
    except KeyboardInterrupt:
        complain("interrupted; what was started on %s goes on" % ", ".join(hosts))
        return SIGNALLED + signal.SIGINT
    finally:
        for ssh in running:
            ssh.process.terminate()
        for ssh in running:
            ssh.process.wait()
    return max(code, print_json(hosts, running)) if as_json else code


def main(words):
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if not hasattr(select, "poll"):
            raise Problem("it needs poll(2), which this system lacks; call ssh yourself: "
                          "ssh HOST python3 - list < nodejobs.py")
        if len(words) < 2:
            raise Problem("usage: on_hosts.py HOST,... VERB ...; see --help")
        hosts, several = hosts_of(words[0])
        return on_hosts(hosts, several, words[1:])
    except Problem as problem:
        complain(str(problem))
        return USAGE
    except BrokenPipeError:
        # Whoever read our output has enough. What Python still holds back must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGNALLED + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
