"""Trees that fight back: stop and timeout against processes that flee, hide, multiply and play dead.

The fighter is a small C program whose every process acts a script of letters:

    (...)  fork a child that acts what is inside      n  sign the roll: this one stands   j  idle
    s, g   leave for a session or group of its own    i  sign and idle     z  sign and suspend itself
    e      scrub: execute itself, with no environment w  wait until all have signed       x  exit
    c      close every descriptor                     o  wait until the parent is gone
    d      be deaf to every signal                    t  exit at SIGTERM
    r R Q  at SIGTERM leave a child in one's place; in a session of its own; and with no environment
    k K    a chain: fork the next and exit, for ever; each in a session of its own
    b      fork short sleepers for ever

Each of its processes has a token among its arguments, by which survivors are found without asking the
product, and ends by itself after two minutes. The wilder ones fight in a pid namespace that dies with
the case.
"""
import os
import pathlib
import shutil
import subprocess
import time

import nodejobs
from harness import Missing, attack, end, eventually, inside, is_alive, namespaces

FIGHTER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char **words;  /* our name, the script, the token, the roll, how many will sign it */
static char *nothing[] = {NULL};
static time_t last;
static pid_t father;
static volatile unsigned long *pulse;

static void sign(void) {
    int fd = open(words[3], O_WRONLY | O_APPEND);
    if (write(fd, "+", 1) != 1) _exit(3);
    close(fd);
}
static void idle(void) {
    while (time(NULL) < last) sleep(5);
    _exit(0);
}
static void scrub(char *script) {
    char *again[] = {words[0], script, words[2], words[3], words[4], NULL};
    execve("/proc/self/exe", again, nothing);
    _exit(4);
}
static void leave(int number) { (void)number; _exit(0); }
static void replace(int number) { (void)number; if (fork() > 0) _exit(0); }
static void replace_afar(int number) { replace(number); setsid(); }
static void replace_hidden(int number) { replace_afar(number); scrub("cj"); }
static void open_pulse(void) {
    char path[4096];
    strcat(strcpy(path, words[3]), ".pulse");
    int fd = open(path, O_RDWR);
    pulse = mmap(NULL, sizeof *pulse, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (pulse == MAP_FAILED) _exit(5);
    close(fd);
}
static void chain(int flee) {
    open_pulse();
    for (long link = 0; time(NULL) < last; link++) {
        if (flee) setsid();
        ++*pulse;
        if (link == 30) sign();
        if (fork() > 0) _exit(0);
    }
    _exit(0);
}
static void breed(void) {
    open_pulse();
    signal(SIGCHLD, SIG_IGN);
    for (long child = 0; time(NULL) < last; child++) {
        if (!fork()) { usleep(5000); ++*pulse; _exit(0); }
        if (child == 10) sign();
        usleep(500);
    }
    _exit(0);
}
static void act(char *script) {
    struct stat roll;
    for (;; script++) switch (*script) {
    case '(': {
        pid_t self = getpid(), child;
        while ((child = fork()) < 0) usleep(1000);
        if (!child) { father = self; act(script + 1); }
        for (int depth = 1; depth; ) { script++; depth += (*script == '(') - (*script == ')'); }
        break;
    }
    case 's': setsid(); break;
    case 'g': setpgid(0, 0); break;
    case 'e': scrub(script + 1); break;
    case 'c': for (int fd = 0; fd < 1024; fd++) close(fd); break;
    case 'd': for (int number = 1; number < 32; number++) signal(number, SIG_IGN); break;
    case 'n': sign(); break;
    case 'j': idle(); break;
    case 'i': sign(); idle(); break;
    case 'z': sign(); while (time(NULL) < last) raise(SIGSTOP); _exit(0);
    case 'w': do { usleep(1000); stat(words[3], &roll); } while (roll.st_size < atol(words[4])); break;
    case 'o': while (getppid() == father) usleep(1000); break;
    case 't': signal(SIGTERM, leave); break;
    case 'r': signal(SIGTERM, replace); break;
    case 'R': signal(SIGTERM, replace_afar); break;
    case 'Q': signal(SIGTERM, replace_hidden); break;
    case 'k': chain(0); break;
    case 'K': chain(1); break;
    case 'b': breed(); break;
    default: _exit(0);
    }
}
int main(int count, char **given) {
    if (count != 5 || (!geteuid() && setuid(0))) return 2;  /* as sudo: where the file is root's, wholly root's */
    words = given;
    father = getppid();
    last = time(NULL) + 120;
    act(words[1]);
}
"""

BENIGN = {  # a command line of the shell, {} being a process that idles; or a script
    "a pipeline": "{0} | {0} | {0}",
    "background grandchildren": "({0} & ({0} & {0}) & {0}) & {0} & {0}",
    "in sessions of their own": "(s(i)i)(si)i",
    "double-forked daemons": "(s(oi)x)(s(oi)x)i",
    "daemons that close every descriptor": "(s(oci)x)i",
    "deaf to every signal": "(di)(d(di)i)di",
    "suspended": "(z)(s(z)z)i",
    "50 deep": "(" * 49 + "i" + ")i" * 49,
    "in other groups": "(g(gi)i)(gi)(g(s(gi)i)i)i",
}
WILD = {
    "500 wide": "(i)" * 499 + "i",
    "daemons that scrub their environment and close every descriptor": "(s(oeci)x)(s(oeci)x)i",
    "children that scrub their environment in a session of their own": "(sec(i)i)i",
    "deaf scrubbed daemons": "(s(oecdi)x)i",
    "a replacement at SIGTERM": "(ri)(ri)ri",
    "a replacement at SIGTERM in another session": "(Ri)(sRi)Ri",
    "a scrubbed replacement at SIGTERM in another session": "(Qi)(sQi)i",
    "a steady forker": "(b)i",
    "a steady forker in another session": "(sb)i",
    "a steady scrubbed forker": "(s(oecb)x)i",
    "a chain in one group": "(k)i",
    "a chain of sessions": "(K)i",
    "a scrubbed chain in one group": "(seck)i",
    "a scrubbed chain of sessions": "(ecK)i",
    "orphaned while the stop runs": "(t(t(di)i)i)(t(di)i)i",
    "orphaned while the stop runs, scrubbed": "(t(t(secdi)i)i)i",
    "orphans that then fork daemons": "(t(sedno(s(j)x)j)i)i",
    "a command that its children outlive": "(di)(sdi)(secdi)ti",
}
EVER = ("a steady", "a chain", "a scrubbed chain", "a replacement", "a scrubbed replacement", "orphan")  # races: often


def fighter_of(room):
    """Compile the fighter, once for an attack; return its path."""
    if not shutil.which("gcc"):
        raise Missing("gcc")
    (room.path / "fighter.c").write_text(FIGHTER)
    subprocess.run(["gcc", "-O1", "-o", str(room.path / "fighter"), str(room.path / "fighter.c")], check=True)
    return str(room.path / "fighter")


def of_token(token):
    """Return the pids of what lives and has this token among its arguments."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if token.encode() in pathlib.Path("/proc", name, "cmdline").read_bytes() and is_alive(int(name)):
                found.append(int(name))
        except OSError:
            pass
    return found


class Fight:
    """One tree in one store: its command, its token, and what of it still lives."""

    def __init__(self, path, fighter, script, token, ends):
        self.token, self.roll = token, pathlib.Path(path, token)
        self.jobs = nodejobs.Jobs(os.path.join(path, "store-" + token))
        shell = "{0}" in script
        self.size = script.count("{0}") if shell else sum(map(script.count, "nizkKb"))
        if ends:  # the command ends when the rest of its tree stands
            self.size -= not shell
            script = script + " &" if shell else script[:-1] + "wx"
        words = [fighter, "i" if shell else script, token, str(self.roll), str(self.size)]
        self.command = script.format(" ".join(words)) + "\nwait" * (not ends) if shell else words
        self.roll.write_bytes(b"")
        self.pulse = pathlib.Path(path, token + ".pulse")
        self.pulse.write_bytes(bytes(8))

    def stands(self):
        return self.roll.stat().st_size >= self.size

    def survivors(self):
        """Return what is wrong: whatever still lives, also what is too quick to be caught living."""
        before = self.pulse.read_bytes()
        for _ in range(4):
            found = of_token(self.token)
            if found:
                gone = eventually(lambda: not of_token(self.token), 1)
                goes_on = self.pulse.read_bytes() != before
                after = ", forking on" if goes_on else ", gone within a second" if gone else ""
                return ["%d survivors: %s%s" % (len(found), found[:9], after)]
            time.sleep(0.02)  # a chain forks hundreds of times meanwhile
        return [] if self.pulse.read_bytes() == before else ["a survivor goes on forking, too quick to be seen"]

    def clear(self):
        for _ in range(50):
            found = of_token(self.token)
            if not found:
                break
            end(found)


def stop_case(path, fighter, script, token, grace, ends, crowd):
    """Let a tree stand, stop it; return what was wrong."""
    fight, problems = Fight(path, fighter, script, token, ends), []
    strangers = [subprocess.Popen(["sleep", "300"], start_new_session=bool(number % 2)) for number in range(crowd)]
    try:
        before = fight.jobs.run(fight.command, "tree", startsecs=0)
        if not eventually(fight.stands, 60):
            return ["the attack is broken: %d of %d stand" % (fight.roll.stat().st_size, fight.size)]
        if ends:
            before = fight.jobs.wait("tree", 60)
            if before.status != "finished":
                return ["the command's end is told as %s: %s" % (before.status, before.error)]
        try:
            record = fight.jobs.stop("tree", grace=grace)
            if record.status != ("finished" if ends else "stopped"):
                problems.append("told as %s: %s" % (record.status, record.error))
            problems += fight.survivors()
        except nodejobs.CannotStop as error:
            problems.append(str(error))
            if not ends and fight.jobs.get_status("tree").status == "stopped":
                problems.append("and it is told as stopped")
        problems += ["a stranger was killed"] * any(stranger.poll() is not None for stranger in strangers)
    finally:
        fight.clear()
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
    return problems


def timeout_case(path, fighter, script, token):
    """Let a tree stand until its timeout; return what was wrong."""
    nodejobs.GRACE = 0.2  # which a monitor is told when it is started
    for seconds in (0.7, 3, 10, 30):
        fight = Fight(path, fighter, script, "%s-%g" % (token, seconds), False)
        try:
            fight.jobs.run(fight.command, "tree", startsecs=0, timeout=seconds)
            stood = eventually(lambda: fight.stands() or fight.jobs.get_status("tree").ended, 60) and fight.stands()
            record = fight.jobs.wait("tree", 60)
            if stood:
                right = record.status == "failed" and "timeout" in (record.error or "")
                return fight.survivors() + ["told as %s: %s" % (record.status, record.error)] * (not right)
        finally:
            fight.clear()
    return ["the attack is broken: the tree never stood"]


def cases_of(room, kinds, ends):
    """Return (name, script, grace, bystanders) of every fight, races often."""
    found = []
    for kind, script in kinds.items():
        if ends and kind == "a command that its children outlive":
            continue  # which is to be seen during the stop
        for turn in range(room.size(3, 1) if kind.startswith(EVER) else 1):
            for grace in (0, 0.25):
                name = "%s, %s, grace %g" % (kind, "the command has ended" if ends else "running", grace)
                found.append((name, script, grace, 200 if turn == 2 else 0))
    return found


def fights(room, kinds, ends, words, quick):
    fighter = fighter_of(room)
    for number, (name, script, grace, crowd) in enumerate(room.pick(cases_of(room, kinds, ends), quick)):
        token = "%s-%d" % (room.path.name, number)  # of this attack only: another may fight at the same time
        yield name, inside(words, stop_case, str(room.path), fighter, script, token, grace, ends, crowd)


@attack("stop: trees on the machine itself")
def on_the_machine(room):
    yield from fights(room, BENIGN, False, [], 4)
    yield from fights(room, BENIGN, True, [], 3)


@attack("stop: trees that fight back")
def fighting_back(room):
    yield from fights(room, dict(BENIGN, **WILD), False, namespaces(), 13)


@attack("stop: what an ended command left")
def left_behind(room):
    yield from fights(room, dict(BENIGN, **WILD), True, namespaces(), 11)


@attack("timeout: trees that fight back")
def timed_out(room):
    words, fighter = namespaces(), fighter_of(room)
    kinds = dict(BENIGN, **WILD)
    for number, kind in enumerate(room.pick(kinds, 4)):
        token = "%s-%d" % (room.path.name, number)
        yield kind, inside(words, timeout_case, str(room.path), fighter, kinds[kind], token)
