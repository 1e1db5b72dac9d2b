"""Run by an environment's own Python, alone (``-I -S``): takes on limits, gives up privileges and the network, then becomes the program.

It replaces itself (exec) and never forks, so that the engine's signals, process group and exit code are the program's own. Standard
library only, Python 3.9; it must not import longctx. ``launch.py --probe`` prints what this host allows, as JSON.

usage: launch.py '{"network": "net" | "user+net" | null, "limits": {"core": 0}, "privileges": true}' PROGRAM ARGUMENT...
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
KEPT_BY_ROOT = (0, 1, 2, 3)
"""CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER: root may run jobs in folders that others own."""
REFUSED = 125
"""Exit code where a promised limit could not be taken on; 127 where the program could not be started."""


def system_call(name: str, *arguments: int) -> int:
    """Call a C function that returns -1 on failure. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(library, name)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def leave_network(how: str) -> None:
    """Enter a network namespace of our own that has only a loopback; ``user+net`` makes a user namespace first, with the same ids."""
    if how == "user+net":
        user, group = os.getuid(), os.getgid()
        system_call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open("/proc/self/" + name, "w") as file:
                file.write(content)
    else:
        system_call("unshare", CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP | IFF_RUNNING))


def give_up_privileges() -> None:
    """No setuid program helps from here on; root keeps only what it needs to write into folders of others."""
    if os.geteuid() == 0:
        for capability in range(64):
            try:
                if capability not in KEPT_BY_ROOT and system_call("prctl", PR_CAPBSET_READ, capability, 0, 0, 0):
                    system_call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
            except OSError:
                if capability > 40:
                    break  # past the last one this kernel knows
                raise
    system_call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def take_limits(limits: Mapping[str, int]) -> None:
    """Set each limit, soft and hard; a hard limit that is lower already stays."""
    for name, value in limits.items():
        number = getattr(resource, "RLIMIT_" + name.upper())
        hard = resource.getrlimit(number)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (lowest, lowest))


def works(function: Callable[..., None], *arguments: str) -> bool:
    """Whether a step succeeds, tried in a child so that nothing here changes."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main(arguments: Sequence[str]) -> int:
    """Probe, or become the program; returns only on failure."""
    if arguments == ["--probe"]:
        network = next((how for how in ("net", "user+net") if works(leave_network, how)), None)
        print(json.dumps({"network": network, "privileges": works(give_up_privileges)}))
        return 0
    options, program = json.loads(arguments[0]), list(arguments[1:])
    try:
        if options["network"]:
            leave_network(options["network"])
        if options["privileges"]:
            give_up_privileges()
        take_limits(options["limits"])
    except (OSError, ValueError) as error:
        print(f"cannot isolate the process: {error}", file=sys.stderr)
        return REFUSED
    try:
        os.execv(program[0], program)
    except OSError as error:
        print(f"cannot start {program[0]}: {error}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
