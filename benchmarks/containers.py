"""What a container costs: create → first line, stop, and images built cold, warm, with one method changed; sizes with shared layers.

    python benchmarks/containers.py            # containers and thin layers, a minute
    python benchmarks/containers.py --cold     # builds tf5 anew as well, without BuildKit's cache

Needs a Docker Engine with buildx and the image of tf5 (``longctx images build tf5``).
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from longctx.orchestrator.builds.builder import buildx
from longctx.orchestrator.builds.make import Maker
from longctx.orchestrator.builds.recipe import environment_tag
from longctx.orchestrator.code import stage
from longctx.orchestrator.engines.base import ContainerSpec, Mount
from longctx.orchestrator.engines.docker.engine import DockerEngine
from longctx.orchestrator.environments import find_environment
from longctx.orchestrator.settings import load_settings

REPEATS = 10


def timed(call: Callable[[], object]) -> float:
    """Return how long a call took, in seconds."""
    started = time.monotonic()
    call()
    return time.monotonic() - started


def told(name: str, seconds: list[float]) -> None:
    """Print a row: median and range."""
    print(f"{name:58s} {statistics.median(seconds):7.3f} s   ({min(seconds):.3f} – {max(seconds):.3f}, n = {len(seconds)})", flush=True)


def containers(engine: DockerEngine, code: Path) -> None:
    """Time containers under the whole profile."""
    environment = find_environment("tf5").spec
    first, ended, stopped = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(REPEATS):
            folder = Path(scratch) / str(number)
            (folder / "out").mkdir(parents=True)

            def spec(*argv: str, folder: Path = folder) -> ContainerSpec:
                return ContainerSpec(
                    run="benchmark", job="benchmark", attempt=1, environment=environment, device="cpu", family=None, argv=argv,
                    mounts=(Mount(source=code, target="code"), Mount(source=folder / "out", target="out", writable=True)),
                    scratch=folder, log=folder / "log.txt",
                )  # fmt: skip

            started = time.monotonic()
            with engine.start(spec("-c", "print('here', flush=True); import time; time.sleep(60)")) as process:
                while not (folder / "log.txt").exists() or not (folder / "log.txt").stat().st_size:
                    time.sleep(0.001)
                first.append(time.monotonic() - started)
                stopping = time.monotonic()
                process.terminate()
                while process.poll() is None:
                    time.sleep(0.001)
                stopped.append(time.monotonic() - stopping)
            started = time.monotonic()
            with engine.start(spec("-c", "pass")) as process:
                while process.poll() is None:
                    time.sleep(0.001)
            ended.append(time.monotonic() - started)
    told("container: create → first line", first)
    told("container: SIGTERM → end", stopped)
    told("container: create → `python -c pass` → removed", ended)
    bare = ["docker", "run", "--rm", "--network", "none", engine.image(spec("-c", "pass")).tag, "python", "-c", "pass"]
    told(
        "  peer: `docker run --rm … python -c pass`, no profile", [timed(lambda: subprocess.run(bare, check=True)) for _ in range(REPEATS)]
    )


def thin(maker: Maker, code: Path) -> None:
    """Time the thin layers: nothing changed, and one method changed."""
    environment = find_environment("tf5")
    found = maker.find(environment, "cpu")
    if found is None:
        raise SystemExit("Build the image first: longctx images build tf5")
    maker.family(found[0], "tf5", "benchmark", "cpu", code)
    same = [timed(lambda: maker.family(found[0], "tf5", "benchmark", "cpu", code)) for _ in range(REPEATS)]
    told("family image: nothing changed", same)
    changed, tags = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(3):
            copy = Path(scratch) / f"{time.time_ns():024x}"
            shutil.copytree(code, copy)
            (copy / "methods" / f"changed{number}.py").write_text(f"NUMBER = {time.time_ns()}\n")

            def build(copy: Path = copy) -> None:
                tags.append(maker.family(found[0], "tf5", "benchmark", "cpu", copy).tag)

            changed.append(timed(build))
    told("family image: one method changed", changed)
    for tag in tags:
        subprocess.run(["docker", "rmi", "--force", tag], check=False, capture_output=True)


def builds(maker: Maker, *, cold: bool) -> None:
    """Time whole images: with every layer in BuildKit's cache, and with none."""
    environment = find_environment("tf5")
    program = buildx()
    if program is None:
        raise SystemExit("There is no buildx.")

    def build() -> None:
        image = maker.inspect(environment_tag(environment, "cpu", maker.base("cpu")))
        if image is not None:
            subprocess.run(["docker", "rmi", "--force", image.tag], check=True, capture_output=True)
        maker.make([(environment, "cpu")], lambda _: None)

    told("environment image tf5: found", [timed(lambda: maker.make([(environment, "cpu")], lambda _: None)) for _ in range(REPEATS)])
    told("environment image tf5: name gone, layers cached", [timed(build) for _ in range(3)])
    if cold:
        subprocess.run([*program, "prune", "--all", "--force"], check=True, capture_output=True)
        told("environment image tf5: cold (no layer, no package cached)", [timed(build)])


def main() -> None:
    """Measure everything on this host's engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", action="store_true", help="build without any cached layer; removes BuildKit's whole cache")
    options = parser.parse_args()
    settings = load_settings()
    engine = DockerEngine(settings)
    code = stage(settings.cache, {})
    containers(engine, code)
    thin(engine.maker, code)
    builds(engine.maker, cold=options.cold)


if __name__ == "__main__":
    main()
