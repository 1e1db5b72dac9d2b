"""The isolation profile, line by line: what is asked for, and what is read back."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.contracts.manifest import EnvironmentSpec
from longctx.orchestrator.engines.base import ContainerSpec, Mount
from longctx.orchestrator.engines.docker.profile import NOBODY, Host, creation, held, identity
from longctx.orchestrator.errors import EnvironmentFailed

GIB = 2**30
HOST = Host(user=1000, group=100, rootless=False, memory_bytes=100 * GIB, processors=8, owner={"host": "here", "pid": "7"})
ENVIRONMENT = EnvironmentSpec(name="tf5", summary="s", python=("3.11",), torch={"cpu": "2"}, imports=())


def spec(**more: Any) -> ContainerSpec:
    given: dict[str, Any] = {
        "run": "r", "job": "j", "attempt": 2, "environment": ENVIRONMENT, "device": "cpu", "family": "kv",
        "argv": ("-m", "runner", "--root", "{root}"), "scratch": Path("/s"), "log": Path("/l"),
        "mounts": (Mount(source=Path("/m/w.bin"), target="model/w.bin"), Mount(source=Path("/a/out"), target="out", writable=True)),
    }  # fmt: skip
    return ContainerSpec(**given | more)


def body(host: Host = HOST, **more: Any) -> dict[str, Any]:
    return creation(spec(**more), "sha256:1", host, [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NetworkMode", "none"), ("ReadonlyRootfs", True), ("CapDrop", ["ALL"]), ("SecurityOpt", ["no-new-privileges"]), ("Init", True),
        ("PidsLimit", 512), ("Memory", 90 * GIB), ("MemorySwap", 90 * GIB), ("NanoCpus", 8 * 10**9), ("ShmSize", 2 * GIB),
        ("IpcMode", "private"), ("Ulimits", [{"Name": "core", "Soft": 0, "Hard": 0}]), ("LogConfig", {"Type": "none", "Config": {}}),
        ("RestartPolicy", {"Name": "no"}), ("DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}]),
        ("Tmpfs", {"/tmp": f"rw,exec,nosuid,nodev,size={4 * GIB},mode=1777"}),
    ],
)  # fmt: skip
def test_every_line(line: str, value: Any) -> None:
    assert body()["HostConfig"][line] == value


def test_nothing_is_granted() -> None:
    assert (
        not {"Privileged", "CapAdd", "Binds", "PidMode", "Devices", "VolumesFrom", "UsernsMode", "PublishAllPorts"}
        & body()["HostConfig"].keys()
    )


def test_the_process() -> None:
    made = body()
    assert (made["Image"], made["Entrypoint"]) == ("sha256:1", ["/opt/environment/bin/python", "-s", "-B"])
    assert made["Cmd"] == ["-m", "runner", "--root", "/longctx"]
    assert (made["OpenStdin"], made["StdinOnce"], made["AttachStdin"], made["Tty"]) == (True, True, True, False)
    assert {"PYTHONPATH=/longctx/code", "HOME=/tmp", "CUDA_VISIBLE_DEVICES=", "OMP_NUM_THREADS=8"} <= set(made["Env"])
    assert made["Labels"] == {
        "longctx": "job", "longctx.run": "r", "longctx.job": "j", "longctx.attempt": "2", "longctx.environment": "tf5",
        "longctx.host": "here", "longctx.pid": "7",
    }  # fmt: skip


def test_nothing_of_the_callers_environment_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    assert "secret" not in str(body())


@pytest.mark.parametrize(
    ("user", "rootless", "expected"), [(1000, False, (1000, 100)), (0, False, (NOBODY, NOBODY)), (1000, True, (0, 0)), (0, True, (0, 0))]
)
def test_who_it_runs_as(user: int, rootless: bool, expected: tuple[int, int]) -> None:
    host = dataclasses.replace(HOST, user=user, rootless=rootless)
    assert identity(host) == expected
    assert body(host)["User"] == f"{expected[0]}:{expected[1]}"


def test_limits_of_the_manifest_and_of_the_host() -> None:
    small = body(memory_bytes=GIB, threads=2)["HostConfig"]
    assert (small["Memory"], small["MemorySwap"], small["NanoCpus"], small["ShmSize"]) == (GIB, GIB, 2 * 10**9, GIB)
    assert f"size={GIB}," in small["Tmpfs"]["/tmp"]
    assert body(threads=99)["HostConfig"]["NanoCpus"] == 8 * 10**9, "more than there are is refused by engines"


def test_mounts() -> None:
    model, out = body()["HostConfig"]["Mounts"]
    assert model == {
        "Type": "bind", "Source": "/m/w.bin", "Target": "/longctx/model/w.bin", "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }  # fmt: skip
    assert (out["Target"], out["ReadOnly"]) == ("/longctx/out", False)
    extra = creation(spec(), "i", HOST, [], extra=["/packages"])["HostConfig"]["Mounts"][-1]
    assert (extra["Source"], extra["Target"], extra["ReadOnly"]) == ("/packages", "/packages", True)


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_mount_outside_the_root(target: str) -> None:
    with pytest.raises(EnvironmentFailed, match="below the root"):
        body(mounts=(Mount(source=Path("/x"), target=target),))


def inspected() -> dict[str, Any]:
    """Return what an engine answers for a container made as asked."""
    made = copy.deepcopy(body())
    config = made["HostConfig"] | {"CapAdd": None, "Privileged": False, "DeviceRequests": [{"Driver": "cdi", "Count": 0}]}
    mounts = [{"Destination": mount["Target"], "RW": not mount["ReadOnly"]} for mount in config["Mounts"]]
    return {"HostConfig": config, "Mounts": mounts, "Config": {"User": made["User"]}}


SECURITY = ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]


def test_what_was_asked_for_is_held() -> None:
    assert all(held(inspected(), SECURITY).values())


@pytest.mark.parametrize(
    ("line", "where", "key", "value"),
    [
        ("network_none", "HostConfig", "NetworkMode", "bridge"), ("read_only_root", "HostConfig", "ReadonlyRootfs", False),
        ("capabilities_dropped", "HostConfig", "CapDrop", None), ("capabilities_dropped", "HostConfig", "CapAdd", ["SYS_ADMIN"]),
        ("capabilities_dropped", "HostConfig", "Privileged", True), ("no_new_privileges", "HostConfig", "SecurityOpt", None),
        ("seccomp", "HostConfig", "SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]), ("init", "HostConfig", "Init", None),
        ("pids_limit", "HostConfig", "PidsLimit", None), ("memory_limit", "HostConfig", "Memory", 0),
        ("memory_limit", "HostConfig", "MemorySwap", -1), ("shm_limit", "HostConfig", "IpcMode", "host"),
        ("gpus_by_uuid", "HostConfig", "DeviceRequests", [{"Count": -1}]), ("not_root", "Config", "User", ""),
        ("not_root", "Config", "User", "0:0"),
    ],
)  # fmt: skip
def test_what_is_not_held_is_one_false_line(line: str, where: str, key: str, value: Any) -> None:
    seen = inspected()
    seen[where][key] = value
    found = held(seen, SECURITY)
    assert [name for name, is_held in found.items() if not is_held] == [line]


def test_writable_mounts_and_the_engines_own_seccomp() -> None:
    seen = inspected()
    seen["Mounts"].append({"Destination": "/longctx/model/w.bin", "RW": True})
    assert not held(seen, SECURITY)["read_only_mounts"]
    assert not held(inspected(), ["name=seccomp,profile=unconfined"])["seccomp"]
    assert not held(inspected(), [])["seccomp"]


def test_root_is_the_caller_where_the_engine_is_rootless() -> None:
    seen = inspected()
    seen["Config"]["User"] = "0:0"
    assert held(seen, [*SECURITY, "name=rootless"])["not_root"]


def test_what_a_person_looks_at_differs_in_its_label_and_its_terminal_alone() -> None:
    job, kept = (
        body(),
        creation(spec(), "sha256:1", HOST, [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a"]}], kept=True, terminal=True),
    )
    assert (job["Tty"], kept["Tty"]) == (False, True)
    assert (job["Labels"]["longctx"], kept["Labels"]["longctx"]) == ("job", "kept")
    assert {key for key in job if job[key] != kept[key]} == {"Tty", "Labels"}
