#!/usr/bin/env python3
"""Makes .venv with longctx, from hashed locks. Run `python3 bootstrap.py`, or `python3 bootstrap.py --dev` for the tests and linters too.

Needs Python 3.11 or newer and nothing else: uv is taken from PATH, else fetched with pip into .tools/. Takes no time when nothing
changed. The index, proxy and certificate variables of uv and of pip are respected.
"""
# Old Pythons must be able to read this file far enough to say that they are too old: no newer syntax, and no annotation of 3.7+.

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
STAMP = VENV / "longctx-bootstrap.json"
OLDEST = (3, 11)

TOO_OLD = 3
"""Exit codes, beside 0: this Python is too old; no uv and no way to fetch it; installing failed; .venv is something else."""
NO_UV = 4
INSTALL_FAILED = 5
NOT_OURS = 6

WAYS_TO_UV = """one of these, then run this again:
  uv itself, from your system's packages or with `pipx install uv`
  Debian or Ubuntu: apt install python3-pip, or python{}.{}-venv""".format(*sys.version_info)


class BootstrapError(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def say(message):
    """Tell the person who waits."""
    sys.stderr.write("bootstrap: " + message + "\n")
    sys.stderr.flush()


def wanted_stamp(dev):
    """Return what .venv depends on: the lock, how longctx itself is built, the Python and the place."""
    digest = hashlib.sha256()
    for name in ("requirements/dev.lock" if dev else "requirements/host.lock", "pyproject.toml", "src/longctx/__init__.py"):
        digest.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return {"dev": dev, "sha256": digest.hexdigest(), "python": "{}.{}".format(*sys.version_info), "root": str(ROOT)}


def present_stamp():
    """Return the stamp of the .venv that is here, or None where there is none or its Python is gone."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    works = (VENV / "bin" / "python").exists() and (VENV / "bin" / "longctx").exists()
    return stamp if works and isinstance(stamp, dict) else None


def pinned_uv():
    """Return uv's version and its lines, with hashes, from the host's lock."""
    found = re.search(
        r"^uv==(\S+)[^\n]*\\\n(?:\s+--hash=\S+(?: \\)?\n)+", (ROOT / "requirements" / "host.lock").read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise BootstrapError(NO_UV, "requirements/host.lock holds no uv; run `python3 images/lock.py` where uv is installed")
    return found.group(1), found.group(0)


def runs(command):
    """Whether a command can be run and succeeds."""
    try:
        return subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def find_uv():
    """Return a uv that runs: from PATH, else the one in .tools, which is fetched if it is not there."""
    on_path = shutil.which("uv")
    if on_path and runs([on_path, "--version"]):
        return on_path
    version, lines = pinned_uv()
    folder = TOOLS / f"uv-{version}"
    program = str(folder / "bin" / "uv")
    if runs([program, "--version"]):
        return program
    fetch_uv(folder, version, lines)
    if not runs([program, "--version"]):
        raise BootstrapError(NO_UV, f"uv was installed in {folder} but does not run there")
    return program


def fetch_uv(folder, version, lines):
    """Install the pinned uv into a folder with any pip that there is: this Python's, or one in a passing virtual environment."""
    scratch = Path(tempfile.mkdtemp(prefix="longctx-bootstrap-"))
    try:
        python = sys.executable
        if not runs([python, "-m", "pip", "--version"]):
            say("this Python has no pip; making one in a passing virtual environment")
            venv = scratch / "venv"
            if not runs([python, "-m", "venv", str(venv)]):
                message = f"uv is needed and cannot be fetched: {sys.executable} has neither pip nor venv. Install "
                raise BootstrapError(NO_UV, message + WAYS_TO_UV)
            python = str(venv / "bin" / "python")
        requirements = scratch / "uv.txt"
        requirements.write_text(lines, encoding="utf-8")
        say(f"fetching uv {version} into .tools")
        target = scratch / "uv"
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--target", str(target), "-r", str(requirements)]
        # A pip told to install per user refuses --target, and one told to want a virtual environment refuses to run.
        variables = {key: value for key, value in os.environ.items() if key not in ("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET")}
        variables.update(PIP_USER="0", PIP_ROOT_USER_ACTION="ignore")
        if subprocess.call(command, env=variables, stdin=subprocess.DEVNULL):
            message = "pip could not fetch uv (see above). Check the network, $PIP_INDEX_URL and $PIP_CERT, or install "
            raise BootstrapError(NO_UV, message + WAYS_TO_UV)
        TOOLS.mkdir(exist_ok=True)
        passing = TOOLS / f"{folder.name}.{os.getpid()}.tmp"
        shutil.copytree(str(target), str(passing))
        shutil.rmtree(str(folder), ignore_errors=True)
        passing.rename(folder)
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)


def uv_variables():
    """Return uv's variables: the caller's; pip's index, wheels and certificates where uv's are not set."""
    variables = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VIRTUAL_ENV", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT")
    }
    indexes = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")
    if not any(os.environ.get(name) for name in indexes):
        for pip, own in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
            if os.environ.get(pip):
                variables[own] = os.environ[pip]
    if os.environ.get("PIP_FIND_LINKS") and not os.environ.get("UV_FIND_LINKS"):
        variables["UV_FIND_LINKS"] = ",".join(os.environ["PIP_FIND_LINKS"].split())
    if os.environ.get("PIP_CERT") and not os.environ.get("SSL_CERT_FILE"):
        variables["SSL_CERT_FILE"] = os.environ["PIP_CERT"]
    # Where Python itself may not write byte code, every start would compile everything again.
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        variables["UV_COMPILE_BYTECODE"] = "1"
    return variables


def install(uv, stamp, present):
    """Make or renew .venv. What it holds beside the lock is left alone; the stamp is written last."""
    variables = uv_variables()
    python = str(VENV / "bin" / "python")

    def do(what, *arguments):
        if subprocess.call([uv, *list(arguments)], cwd=str(ROOT), env=variables, stdin=subprocess.DEVNULL):
            message = "{0} failed (see above). Check the network, proxy, certificates and index ($UV_DEFAULT_INDEX or $PIP_INDEX_URL)."
            raise BootstrapError(INSTALL_FAILED, message.format(what))

    if STAMP.exists():
        STAMP.unlink()
    code = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
    # Scripts in a virtual environment name its place: one that was moved is made anew.
    moved = present is not None and present.get("root") != stamp["root"]
    if moved or not runs([python, "-c", code]):
        if VENV.is_symlink() or (VENV.exists() and not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir())):
            raise BootstrapError(NOT_OURS, f"{VENV} exists and is no virtual environment; move it away, then run this again")
        say("making .venv with Python {}".format(stamp["python"]))
        do(
            "making .venv",
            "venv",
            "--quiet",
            "--no-project",
            "--clear",
            "--python",
            getattr(sys, "_base_executable", sys.executable),
            str(VENV),
        )
    lock = "requirements/dev.lock" if stamp["dev"] else "requirements/host.lock"
    say("installing " + lock)
    do("installing " + lock, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--no-deps", "-r", lock)
    say("installing longctx itself, editable")
    do(
        "installing longctx",
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--no-deps",
        "--no-build-isolation",
        "--offline",
        "-e",
        str(ROOT),
    )
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamp), encoding="utf-8")
    temporary.replace(STAMP)


def main():
    """Return the exit code."""
    if sys.version_info < OLDEST:
        found = "{}.{}".format(*sys.version_info)
        needed = "{}.{}".format(*OLDEST)
        say(f"longctx needs Python {needed} or newer; {sys.executable} is {found}. Use a newer one: `python{needed} bootstrap.py`.")
        return TOO_OLD
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="install what the tests, linters and type checker need, too")
    options = parser.parse_args()
    present = present_stamp()
    # The development lock holds all of the host's: a plain run on a development .venv leaves it one.
    acceptable = [wanted_stamp(True)] if options.dev else [wanted_stamp(False), wanted_stamp(True)]
    try:
        if present in acceptable:
            say("nothing changed")
        else:
            install(find_uv(), wanted_stamp(options.dev or bool(present and present.get("dev"))), present)
    except BootstrapError as failure:
        say(str(failure))
        return failure.code
    shown = os.path.relpath(str(VENV))
    print("Ready. Next:")
    print(f"  {shown}/bin/longctx --help")
    if options.dev:
        print(f"  {shown}/bin/python -m pytest tests/unit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
