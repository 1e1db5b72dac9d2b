"""Run inside a container or a process of an environment: tries every line of the isolation profile and says what happened.

usage: probe.py '{"root": "/longctx", "forks": 10000, …}' (see :class:`Asked`). Prints one line of JSON: ``{"lines": [{line, held,
tried, saw}], "user": 65532, …}``; ``held`` is null where a line could not be tried. Nothing is left behind, on the host neither: files to
write have no name, files to overwrite are opened and closed. Standard library only, Python 3.9; it must not import longctx.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TEST_NET = ("192.0.2.1", 80)
"""An address that no host has (RFC 5737)."""
AT_ONCE = 0.5
"""Seconds within which a system without a network says so."""
SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock")
VIRTUAL = frozenset({
    "proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "fuse-overlayfs", "securityfs", "debugfs",
    "tracefs", "bpf", "pstore", "hugetlbfs", "ramfs",
})  # fmt: skip
"""File systems that hold nothing of the host's disks; a container's own root is an overlay."""
ENGINES_OWN = frozenset(
    ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/sbin/docker-init", "/usr/sbin/docker-init", "/run/.containerenv")
)
"""What the engine itself mounts from its folders."""
INITS = ("docker-init", "tini", "catatonit", "podman-init")


class Line(NamedTuple):
    """One line of the profile: what was tried, what happened, and whether the line held (None: it could not be tried)."""

    line: str
    held: bool | None
    tried: str
    saw: str


class Asked(NamedTuple):
    """What the host wants tried."""

    root: str = "/longctx"
    forks: int = 0
    """How many processes to start at most; 0 where nothing promises to stop them."""
    variables: Sequence[str] = ()
    """Names of the caller's variables that must not be here."""
    others: Sequence[str] = ()
    """Host paths of other jobs' files."""
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    gpus: Sequence[str] = ()


def attempt(action: Callable[[], Any]) -> str:
    """Return the name of the error that an action met, or nothing when it succeeded."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _status(name: str) -> str:
    return next((line.partition(":")[2].strip() for line in _read("/proc/self/status").splitlines() if line.startswith(name + ":")), "")


def _new_file(folder: str | Path) -> str:
    """Write a file without a name into a folder; return the error's name, or nothing when it worked."""
    return attempt(lambda: os.close(os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600)))


def _read_only(path: str | Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def read_only_root() -> Line:
    """Nothing can be written next to the system's programs."""
    found = {folder: (_new_file(folder), _read_only(folder)) for folder in ("/", "/usr", "/etc", "/var")}
    saw = ", ".join(f"{folder} {error or 'written'}{' (read-only)' if locked else ''}" for folder, (error, locked) in found.items())
    return Line("read_only_root", all(error and locked for error, locked in found.values()), "writing to /, /usr, /etc and /var", saw)


def read_only_mounts(root: str) -> Line:
    """Of what lies in the root only ``out/`` can be changed."""
    found = {path: (_opened_for_writing(path), _read_only(path)) for path in _below(Path(root))}
    open_ = [str(path.relative_to(root)) for path, (error, locked) in found.items() if not error or not locked]
    saw = f"writable: {', '.join(sorted(open_)[:5])}" if open_ else "each is refused and read-only"
    return Line("read_only_mounts", not open_, f"writing to {len(found)} files and folders of the root", saw)


def _opened_for_writing(path: Path) -> str:
    """Return the error that opening a file for writing, or making one in a folder, meets; nothing when it worked."""
    return _new_file(path) if path.is_dir() else attempt(lambda: os.close(os.open(path, os.O_WRONLY)))


def _below(root: Path) -> Iterator[Path]:
    yield root
    for folder, folders, files in os.walk(root, followlinks=True):
        if folder == str(root):
            folders[:] = [name for name in folders if name != "out"]
        yield from (Path(folder) / name for name in (*folders, *files))


def out_writable(root: str) -> Line:
    """The job can leave its results."""
    path = Path(root) / "out" / "probe.txt"

    error = attempt(lambda: path.write_text("written inside\n", encoding="ascii"))
    return Line("out_writable", not error, "writing out/probe.txt", error or "written")


def network() -> Line:
    """No interface but the loopback, no way out, no resolver."""
    names = sorted(name for _, name in socket.if_nameindex())
    started = time.monotonic()

    def connect() -> None:
        with socket.create_connection(TEST_NET, timeout=2):
            pass

    error, seconds = attempt(connect) or "connected", time.monotonic() - started
    resolver = _resolver()
    held = names in ([], ["lo"]) and error in ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL") and seconds < AT_ONCE and not resolver
    saw = f"interfaces {', '.join(names) or 'none'}; connect: {error} after {seconds * 1000:.0f} ms; resolver {resolver or 'none answers'}"
    return Line("network_none", held, f"listing interfaces, connecting to {TEST_NET[0]}, asking a resolver", saw)


def _resolver() -> str:
    """Return the address of a resolver that answers, or that could be reached, or nothing."""
    written = [line.split()[1] for line in _read("/etc/resolv.conf").splitlines() if line.startswith("nameserver ")]
    query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\x07example\x03com\x00" + struct.pack("!HH", 1, 1)
    for address in written or ["192.0.2.53"]:

        def ask(address: str = address) -> None:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(0.2)
                asking.connect((address, 53))
                asking.send(query)
                asking.recv(512)

        # A timeout means that the query left: with no answer within so short a time, but it left.
        if attempt(ask) in ("", "TimeoutError", "ETIMEDOUT", "timeout"):
            return address
    return ""


def not_root() -> Line:
    """The process is an ordinary user of the host and cannot become root."""
    user, group = os.getuid(), os.getgid()
    # Under rootless Docker root inside is an ordinary user outside: the map says so.
    outside = next((row.split()[1] for row in _read("/proc/self/uid_map").splitlines() if row.split()[:1] == ["0"]), "0")
    child = _in_child(lambda: os.setuid(0))
    held = (user != 0 and os.geteuid() != 0 and bool(child)) or (user == 0 and outside != "0")
    return Line("not_root", held, "setuid(0)", f"uid {user}, gid {group}; setuid(0): {child or 'worked'}; 0 inside is {outside} outside")


def _in_child(action: Callable[[], Any]) -> str:
    """Return the name of the error that an action met in a process of its own, or nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, attempt(action).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        name = file.read().decode()
    os.waitpid(pid, 0)
    return name


def no_new_privileges() -> Line:
    """A setuid program does not help."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(shutil.which("cat") or "/bin/cat", folder))
        owner = attempt(lambda: os.chown(copy, 0, 0))
        mode = attempt(lambda: copy.chmod(0o4755))
        done = subprocess.run([str(copy), "/proc/self/status"], capture_output=True, text=True, check=False)
        effective = next((line.split()[2] for line in done.stdout.splitlines() if line.startswith("Uid:")), "?")
    flag = _status("NoNewPrivs")
    saw = f"NoNewPrivs {flag}; chown to root: {owner or 'worked'}, setuid bit: {mode or 'set'}; it runs as {effective}"
    held = flag == "1" and (effective != "0" or os.getuid() == 0)
    return Line("no_new_privileges", held, "running a setuid copy of cat", saw)


def capabilities() -> Line:
    """No capability is left, so no device can be made and nothing mounted."""
    sets = {name: _status("Cap" + name) for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")}
    left = {name: value for name, value in sets.items() if int(value or "1", 16)}
    with tempfile.TemporaryDirectory() as folder:
        node = attempt(lambda: os.mknod(Path(folder) / "node", 0o20600, os.makedev(1, 5)))
        mounted = _in_child(lambda: _mount(folder))
    words = ", ".join(f"Cap{name} {value}" for name, value in left.items()) or "CapEff, CapPrm, CapInh, CapBnd, CapAmb are 0"
    saw = f"{words}; mknod: {node or 'worked'}; mount: {mounted or 'worked'}"
    return Line("capabilities_dropped", not left and bool(node) and bool(mounted), "mknod, mount, and reading /proc/self/status", saw)


def _mount(folder: str) -> None:
    """Mount a file system in a namespace of our own, so that nothing changes for anybody else. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x20000, 0x4000 | 0x40000
    for name, arguments in (
        ("unshare", (new_namespace,)),
        ("mount", (None, b"/", None, private, None)),
        ("mount", (b"none", folder.encode(), b"tmpfs", 0, None)),
    ):
        if getattr(library, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)


def seccomp() -> Line:
    """System calls are filtered."""
    mode = _status("Seccomp")
    return Line("seccomp", mode == "2", "reading /proc/self/status", f"Seccomp {mode or 'not told'}")


def init() -> Line:
    """The first process is an init that reaps and passes signals on."""
    name = _read("/proc/1/comm").strip()
    return Line("init", name in INITS, "reading /proc/1/comm", name or "not readable")


def pids(limit: int) -> Line:
    """Processes are limited: start up to ``limit``, and end them all."""
    if limit == 0:
        return Line("pids_limit", False, "nothing: no limit is promised, so none is tried", "not limited")
    children: list[int] = []
    stopped = ""
    try:
        while len(children) < limit and not stopped:
            try:
                child = os.fork()
            except OSError as error:
                stopped = errno.errorcode.get(error.errno or 0, str(error))
                break
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
    return Line("pids_limit", stopped == "EAGAIN", f"{limit:,} forks", f"{len(children):,} started, then {stopped or 'no refusal'}")


def memory_limit() -> tuple[int, str] | None:
    """Return the memory limit in bytes, and whose: the control group's as seen from inside (version 2, then 1), or the process's own."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdecimal() and int(text) < 2**60:
            return int(text), "the control group's"
    own = resource.getrlimit(resource.RLIMIT_DATA)[1]
    return None if own == resource.RLIM_INFINITY else (own, "the process's, for each of its children anew")


def memory(expected: int | None) -> Line:
    """Memory is limited to what the job was given."""
    found = memory_limit()
    held = found is not None and (expected is None or found[0] <= expected)
    saw = "no limit" if found is None else f"{found[0] / 2**20:,.0f} MiB, {found[1]}"
    return Line("memory_limit", held, "reading the limit of the control group and of the process", saw)


def shm(expected: int | None) -> Line:
    """Shared memory and the temporary folder are file systems of limited size."""
    size, temporary = (_size(path) for path in ("/dev/shm", "/tmp"))
    own = any(point == "/tmp" and kind == "tmpfs" for point, kind, _ in mounts())
    held = own and (expected is None or 0 < size <= expected)
    saw = f"/dev/shm {size / 2**20:,.0f} MiB; /tmp {temporary / 2**20:,.0f} MiB{'' if own else ', on the disk'}"
    return Line("shm_limit", held, "reading the sizes of /dev/shm and /tmp", saw)


def _size(path: str) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_blocks * found.f_frsize


def mounts() -> Iterator[tuple[str, str, str]]:
    """Yield mount point, file system and the path within it, of every mount that this process sees."""
    for row in _read("/proc/self/mountinfo").splitlines():
        left, _, right = row.partition(" - ")
        parts = left.split()
        yield parts[4].encode().decode("unicode_escape"), right.split()[0], parts[3]


def host_paths(root: str) -> Line:
    """Nothing of the host's disks is here but the job's mounts."""
    foreign = sorted(
        point
        for point, kind, _ in mounts()
        if kind not in VIRTUAL and point not in ENGINES_OWN and not (point + "/").startswith(root + "/")
    )
    saw = f"mounted: {', '.join(foreign[:5])}" if foreign else "only the root's mounts and the engine's own files"
    return Line("no_host_paths", not foreign, "reading /proc/self/mountinfo", saw)


def other_jobs(paths: Sequence[str]) -> Line:
    """Another job's files cannot be read."""
    found = [attempt(functools.partial(_open, path)) or "read" for path in paths]
    return Line(
        "no_other_jobs", "read" not in found if found else None, "reading another job's files by their path", ", ".join(found) or "-"
    )


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def no_engine_socket() -> Line:
    """The container engine cannot be asked for anything."""

    def connect(path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.connect(path)

    reached = ", ".join(path for path in SOCKETS if not attempt(functools.partial(connect, path)))
    return Line("no_engine_socket", not reached, "connecting to the engines' sockets", f"reached {reached}" if reached else "none answers")


def gpus(leased: Sequence[str]) -> Line:
    """Only the leased GPUs are here."""
    nodes = sorted(path.name for path in Path("/dev").glob("nvidia*"))
    cards = [name for name in nodes if name.removeprefix("nvidia").isdecimal()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    held = len(cards) <= len(leased) and (bool(leased) or not visible)
    told = "not set" if visible is None else visible or "empty"
    saw = f"/dev/nvidia*: {', '.join(nodes) or 'none'}; CUDA_VISIBLE_DEVICES: {told}"
    return Line("gpus_by_uuid", held, "listing devices", saw)


def clean_environment(callers: Iterable[str]) -> Line:
    """No variable of the caller is here."""
    found = sorted(set(callers) & set(os.environ))
    saw = f"here too: {', '.join(found[:5])}" if found else f"{len(os.environ)} variables, none of the caller's"
    return Line("clean_environment", not found, "listing the names of variables", saw)


def compiler() -> Line:
    """Kernels can be compiled and run: gcc, Python's headers, and a temporary folder that programs may run in."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "try.c", Path(folder) / "try"
        source.write_text("#include <patchlevel.h>\nint main(void) { return PY_MAJOR_VERSION - 3; }\n", encoding="ascii")
        headers = sysconfig.get_path("include")
        if not (Path(headers) / "Python.h").exists():
            return Line("compiler", False, "looking for Python.h", f"{headers} does not hold it")
        command = [os.environ.get("CC") or "gcc", "-I", headers, "-o", str(program), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            ran = subprocess.run([str(program)], check=False).returncode if done.returncode == 0 else None
        except OSError as error:
            return Line("compiler", False, "compiling a C program in the temporary folder and running it", str(error))
    saw = "compiled and ran" if ran == 0 else f"gcc: {done.stderr.strip()[:200]}" if done.returncode else f"it ended with {ran}"
    return Line("compiler", ran == 0, "compiling a C program in the temporary folder and running it", saw)


def lines(asked: Asked) -> list[Line]:
    """Try everything, in the order of the profile."""
    return [
        read_only_root(), read_only_mounts(asked.root), out_writable(asked.root), network(), not_root(), no_new_privileges(),
        capabilities(), seccomp(), init(), pids(asked.forks), memory(asked.memory_bytes), shm(asked.shm_bytes), host_paths(asked.root),
        other_jobs(asked.others), no_engine_socket(), gpus(asked.gpus), clean_environment(asked.variables), compiler(),
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Try everything and print what happened."""
    asked = Asked(**json.loads(arguments[0] if arguments else "{}"))
    found = [one._asdict() for one in lines(asked)]
    print(json.dumps({"lines": found, "user": os.getuid(), "group": os.getgid(), "variables": sorted(os.environ)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
