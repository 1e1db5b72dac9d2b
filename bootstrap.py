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

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
TOOLS = os.path.join(ROOT, ".tools")
STAMP = os.path.join(VENV, "longctx-bootstrap.json")
OLDEST = (3, 11)

TOO_OLD = 3
"""Exit codes, beside 0: this Python is too old; no uv and no way to fetch it; installing failed; .venv is something else."""
NO_UV = 4
INSTALL_FAILED = 5
NOT_OURS = 6


class Failure(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super(Failure, self).__init__(message)
        self.code = code


def say(message):
    """Tell the person who waits."""
    sys.stderr.write("bootstrap: " + message + "\n")
    sys.stderr.flush()


def read(*parts):
    """Return the bytes of a file of the repository."""
    with open(os.path.join(ROOT, *parts), "rb") as file:
        return file.read()


def wanted_stamp(dev):
    """Return what .venv depends on: the lock, how longctx itself is built, the Python and the place."""
    digest = hashlib.sha256()
    for name in ("requirements/dev.lock" if dev else "requirements/host.lock", "pyproject.toml", "src/longctx/__init__.py"):
        digest.update(hashlib.sha256(read(*name.split("/"))).digest())
    return {"dev": dev, "sha256": digest.hexdigest(), "python": "{0}.{1}".format(*sys.version_info), "root": ROOT}


def present_stamp():
    """Return the stamp of the .venv that is here, or None where there is none or its Python is gone."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return None
    works = os.path.exists(os.path.join(VENV, "bin", "python")) and os.path.exists(os.path.join(VENV, "bin", "longctx"))
    return stamp if works and isinstance(stamp, dict) else None


def pinned_uv():
    """Return uv's version and its lines, with hashes, from the host's lock."""
    found = re.search(r"^uv==(\S+)[^\n]*\\\n(?:\s+--hash=\S+(?: \\)?\n)+", read("requirements", "host.lock").decode("utf-8"), re.MULTILINE)
    if found is None:
        raise Failure(NO_UV, "requirements/host.lock holds no uv; run `python3 images/lock.py` where uv is installed")
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
    folder = os.path.join(TOOLS, "uv-" + version)
    program = os.path.join(folder, "bin", "uv")
    if runs([program, "--version"]):
        return program
    fetch_uv(folder, version, lines)
    if not runs([program, "--version"]):
        raise Failure(NO_UV, "uv was installed in {0} but does not run there".format(folder))
    return program


def fetch_uv(folder, version, lines):
    """Install the pinned uv into a folder with any pip that there is: this Python's, or one in a passing virtual environment."""
    scratch = tempfile.mkdtemp(prefix="longctx-bootstrap-")
    try:
        python = sys.executable
        if not runs([python, "-m", "pip", "--version"]):
            say("this Python has no pip; making one in a passing virtual environment")
            venv = os.path.join(scratch, "venv")
            if not runs([python, "-m", "venv", venv]):
                raise Failure(NO_UV, how_to_get_uv())
            python = os.path.join(venv, "bin", "python")
        requirements = os.path.join(scratch, "uv.txt")
        with open(requirements, "w") as file:
            file.write(lines)
        say("fetching uv {0} into .tools".format(version))
        target = os.path.join(scratch, "uv")
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--target", target, "-r", requirements]
        # A pip told to install per user refuses --target, and one told to want a virtual environment refuses to run.
        variables = {key: value for key, value in os.environ.items() if key not in ("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET")}
        variables.update(PIP_USER="0", PIP_ROOT_USER_ACTION="ignore")
        if subprocess.call(command, env=variables, stdin=subprocess.DEVNULL):
            raise Failure(NO_UV, "pip could not fetch uv (see above). Check the network, $PIP_INDEX_URL and $PIP_CERT; or " + how_to_get_uv())
        if not os.path.isdir(TOOLS):
            os.makedirs(TOOLS)
        passing = "{0}.{1}.tmp".format(folder, os.getpid())
        shutil.copytree(target, passing)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(passing, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def how_to_get_uv():
    """Return what a person can install."""
    version = "{0}.{1}".format(*sys.version_info)
    return (
        "uv is needed and cannot be fetched, because {0} has neither pip nor venv. Install one of these, then run this again:\n"
        "  uv itself, from your system's packages or with `pipx install uv`\n"
        "  Debian or Ubuntu: apt install python3-pip, or python{1}-venv".format(sys.executable, version)
    )


def uv_variables():
    """Return uv's variables: the caller's; pip's index, wheels and certificates where uv's are not set; byte code compiled."""
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT")}
    indexes = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")
    if not any(os.environ.get(name) for name in indexes):
        for pip, own in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
            if os.environ.get(pip):
                variables[own] = os.environ[pip]
    if os.environ.get("PIP_FIND_LINKS") and not os.environ.get("UV_FIND_LINKS"):
        variables["UV_FIND_LINKS"] = ",".join(os.environ["PIP_FIND_LINKS"].split())
    if os.environ.get("PIP_CERT") and not os.environ.get("SSL_CERT_FILE"):
        variables["SSL_CERT_FILE"] = os.environ["PIP_CERT"]
    variables["UV_COMPILE_BYTECODE"] = "1"
    return variables


def install(uv, stamp):
    """Make or renew .venv. What it holds beside the lock is left alone; the stamp is written last."""
    variables = uv_variables()
    python = os.path.join(VENV, "bin", "python")

    def do(what, *arguments):
        if subprocess.call([uv] + list(arguments), cwd=ROOT, env=variables, stdin=subprocess.DEVNULL):
            message = "{0} failed (see above). Check the network, proxy, certificates and index ($UV_DEFAULT_INDEX or $PIP_INDEX_URL)."
            raise Failure(INSTALL_FAILED, message.format(what))

    if os.path.lexists(STAMP):
        os.remove(STAMP)
    code = "import sys; sys.exit(sys.version_info[:2] != {0!r})".format(sys.version_info[:2])
    if not runs([python, "-c", code]):
        if os.path.lexists(VENV) and not os.path.exists(os.path.join(VENV, "pyvenv.cfg")) and (os.path.islink(VENV) or os.listdir(VENV)):
            raise Failure(NOT_OURS, "{0} exists and is no virtual environment; move it away, then run this again".format(VENV))
        say("making .venv with Python {0}".format(stamp["python"]))
        do("making .venv", "venv", "--quiet", "--no-project", "--clear", "--python", getattr(sys, "_base_executable", sys.executable), VENV)
    lock = os.path.join("requirements", "dev.lock" if stamp["dev"] else "host.lock")
    say("installing " + lock)
    do("installing " + lock, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--no-deps", "-r", lock)
    say("installing longctx itself, editable")
    do("installing longctx", "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "--offline", "-e", ROOT)
    with open(STAMP + ".tmp", "w") as file:
        json.dump(stamp, file)
    os.rename(STAMP + ".tmp", STAMP)


def main():
    """Return the exit code."""
    if sys.version_info < OLDEST:
        say(
            "longctx needs Python {0}.{1} or newer; {2} is {3}.{4}. Run this file with a newer one, such as `python3.11 bootstrap.py`.".format(
                OLDEST[0], OLDEST[1], sys.executable, sys.version_info[0], sys.version_info[1]
            )
        )
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
            install(find_uv(), wanted_stamp(options.dev or bool(present and present.get("dev"))))
    except Failure as failure:
        say(str(failure))
        return failure.code
    here = os.path.relpath(VENV)
    shown = here if not here.startswith("..") else VENV
    print("Ready. Next:")
    print("  {0}/bin/longctx --help".format(shown))
    if options.dev:
        print("  {0}/bin/python -m pytest tests/unit".format(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
