"""What can be known about the images without a container engine.

The files themselves: linted, parsed, and held against the tree, pyproject.toml and each other. The wheel
they install: built from a copy of the tree, installed beside the dependencies and nothing else of the
repository, and started with the images' own entry points, environment and health checks.
"""

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30

# The settings and what the images set them to. Empty: no fixed default, the program finds one when it starts.
SETTINGS = {
    "loadbalancer": {
        "BIND": "0.0.0.0",
        "DATA_DIR": "/data",
        "DISPATCH_MODE": "eager",
        "DISPATCH_PERIOD": "5000",
        "MAX_NUM_JOBS_DISPATCH": "30",
        "REQUEST_RESULT_PERIOD": "3000",
        "MAX_NUM_NODES": "10",
        "NODE_GRACE_PERIOD": "10000",
        "CRASH_LIMIT": "3",
    },
    "clusternode": {
        "BIND": "0.0.0.0",
        "DATA_DIR": "/data",
        "CLIENT_PORT": "9000",
        "DRAIN_PERIOD": "5000",
        "SLOTS": "",
        "TASKS": "",
        "MAX_TASKS_PER_WORKER": "100",
        "TASK_HANG_PERIOD": "60000",
        "MAX_RESULT_BYTES": "4294967296",
        "CHECKPOINT_PERIOD": "60000",
        "NODE_NAME": "",
    },
}
#: Given to a container, and never part of an image.
SECRETS = {"NOTIFY_SECRET"}


class Image:
    """A Dockerfile, taken apart."""

    def __init__(self, program: str, file: str) -> None:
        self.program = program
        self.path = ROOT / file
        parser = DockerfileParser(fileobj=BytesIO(self.path.read_bytes()))
        self.bases: list[str] = parser.parent_images
        self.env: dict[str, str] = dict(parser.envs)  # of the last stage, as all below but `copied`
        steps = [(step["instruction"], step["value"]) for step in parser.structure]
        self.copied = [source for name, value in steps if name == "COPY" for source in value.split()[:-1]]
        last_from = max(at for at, (name, _) in enumerate(steps) if name == "FROM")
        self.last_stage = steps[last_from + 1 :]

    def one(self, instruction: str) -> str:
        """The value of an instruction that the last stage must have exactly once."""
        (value,) = [value for name, value in self.last_stage if name == instruction]
        return value

    @property
    def command(self) -> list[str]:
        """What `docker run` starts when it is given no arguments."""
        return json.loads(self.one("ENTRYPOINT")) + json.loads(self.one("CMD"))

    @property
    def health_command(self) -> list[str]:
        return json.loads(self.one("HEALTHCHECK").partition("CMD ")[2])


IMAGES = {
    "loadbalancer": Image("loadbalancer", "Dockerfile.lb"),
    "clusternode": Image("clusternode", "Dockerfile.node"),
}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
BALANCER = "reverse-proxy"
NODES = ["node-1", "node-2", "node-3"]


@pytest.fixture(params=IMAGES.values(), ids=IMAGES.keys())
def image(request: pytest.FixtureRequest) -> Image:
    return request.param


@pytest.fixture(params=COMPOSE["services"].values(), ids=COMPOSE["services"].keys())
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def image_of(service: Mapping[str, Any]) -> Image:
    (image,) = [image for image in IMAGES.values() if image.path.name == service["build"]["dockerfile"]]
    return image


# --- the Dockerfiles


def test_hadolint_finds_nothing_and_no_rule_is_switched_off(image: Image, tmp_path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    options = ["--no-color", "--disable-ignore-pragma", "--failure-threshold", "style"]
    # Run elsewhere, so that no configuration file can soften it.
    run([hadolint, *options, image.path], cwd=tmp_path)


def test_the_base_is_one_exact_slim_python_that_the_project_supports(image: Image) -> None:
    assert len(image.bases) == 2
    assert set(image.bases) == set(IMAGES["loadbalancer"].bases)
    release = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", image.bases[0])
    assert release
    assert PROJECT["requires-python"] == f">={release[1]}"


def test_only_the_wheel_reaches_the_last_stage(image: Image) -> None:
    assert not {"COPY", "ADD"} & {name for name, _ in image.last_stage}
    install = image.one("RUN")
    assert "from=build" in install
    assert "pip install --no-cache-dir --no-index " in install
    assert "apt-get" not in install


def test_the_build_stage_gets_what_the_wheel_is_made_of_and_no_more(image: Image) -> None:
    copied = {source.rstrip("/") for source in image.copied}
    patterns: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert copied == {"pyproject.toml", PROJECT["readme"], *(pattern.rstrip("*") for pattern in patterns)}
    assert [path for path in copied if not (ROOT / path).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line for line in ignore if line.startswith("!")} == {f"!{path}" for path in copied}


def test_every_setting_is_in_the_environment_with_its_default(image: Image) -> None:
    assert image.env == {"PYTHONUNBUFFERED": "1", **SETTINGS[image.program]}


def test_the_program_is_an_entry_point_in_exec_form(image: Image) -> None:
    assert image.command[0] == image.program
    assert image.program in PROJECT["scripts"]


def test_arguments_and_exposed_port_are_those_of_the_reference() -> None:
    balancer, node = IMAGES["loadbalancer"], IMAGES["clusternode"]
    assert balancer.command == ["loadbalancer", "8080"]
    assert balancer.one("EXPOSE") == "8080"
    assert node.command == ["clusternode", "reverse-proxy", "8080"]
    assert node.one("EXPOSE") == node.env["CLIENT_PORT"]


def test_a_numeric_user_that_is_not_root_owns_the_data_volume(image: Image) -> None:
    user, group = image.one("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert image.one("VOLUME") == image.env["DATA_DIR"]
    assert f"install -d -o {user} -g {group} -m 0700 {image.env['DATA_DIR']}" in image.one("RUN")
    order = [name for name, _ in image.last_stage]
    assert order.index("RUN") < order.index("VOLUME"), "what a build changes after VOLUME is lost"


def test_the_health_check_asks_the_program_on_its_own_port(image: Image) -> None:
    assert (ROOT / "runtime" / "health.py").is_file()
    asked = " ".join(image.health_command)
    port = {"loadbalancer": "8080", "clusternode": '"$CLIENT_PORT"'}[image.program]
    assert f"python -m runtime.health {image.program} 127.0.0.1 {port}" in asked


# --- compose.yaml


def test_compose_has_one_balancer_and_three_nodes() -> None:
    services = COMPOSE["services"]
    assert list(services) == [BALANCER, *NODES]
    assert image_of(services[BALANCER]).program == "loadbalancer"
    assert {image_of(services[name]).program for name in NODES} == {"clusternode"}
    assert all("depends_on" not in service for service in services.values())


def test_compose_names_the_balancer_as_the_nodes_call_it(service: dict[str, Any]) -> None:
    image = image_of(service)
    assert [image.program, *service["command"]] == image.command
    assert image.program == "loadbalancer" or service["command"][0] == BALANCER


def test_compose_gives_each_service_a_volume_of_its_own_where_the_data_is() -> None:
    mounts = [mount.split(":") for service in COMPOSE["services"].values() for mount in service["volumes"]]
    assert sorted(volume for volume, _ in mounts) == sorted(COMPOSE["volumes"])
    assert len(COMPOSE["volumes"]) == len(COMPOSE["services"])
    assert {target for _, target in mounts} == {"/data"}


def test_compose_joins_all_on_one_network() -> None:
    assert list(COMPOSE["networks"]) == ["evenly"]
    assert all(service["networks"] == ["evenly"] for service in COMPOSE["services"].values())


def test_compose_opens_client_ports_on_loopback_and_nothing_else() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == [f"127.0.0.1:{9000 + number}:9000" for number in (1, 2, 3)]


def test_compose_sets_only_settings_and_keeps_the_images_defaults(
    service: dict[str, Any],
) -> None:
    image = image_of(service)
    assert set(service["environment"]) <= set(SETTINGS[image.program])
    for name, value in service["environment"].items():
        if name != "NODE_NAME":
            assert value == f"${{{name}:-{image.env[name]}}}"


def test_compose_gives_each_node_its_name() -> None:
    assert [COMPOSE["services"][name]["environment"]["NODE_NAME"] for name in NODES] == NODES


def test_compose_stops_restarts_and_checks_as_the_images_do(service: dict[str, Any]) -> None:
    image = image_of(service)
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert stop_grace_seconds(service) >= 10
    test = [part.replace('"$CLIENT_PORT"', image.env.get("CLIENT_PORT", "")) for part in image.health_command]
    assert " ".join(service["healthcheck"]["test"][1:]) in " ".join(test)


def stop_grace_seconds(service: Mapping[str, Any]) -> int:
    return int(service["stop_grace_period"].removesuffix("s"))


# --- the wheel


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, and a place to run it that is not the repository."""

    bin: Path
    cwd: Path

    def env(self, settings: Mapping[str, str]) -> dict[str, str]:
        """The settings and the way to the programs: nothing of the environment the tests run in."""
        return {"PATH": f"{self.bin}{os.pathsep}{os.defpath}", **settings}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, built as the images build it, with the dependencies of the environment of the tests."""
    base = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(copy_tree(base / "tree"), base / "wheels")
    venv = base / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", venv])
    (site,) = venv.glob("lib/python*/site-packages")
    # A .pth file makes packages importable, but not the editable installs that stand beside them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    pip("--python", venv / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (base / "cwd").mkdir()
    return Installed(bin=venv / "bin", cwd=base / "cwd")


def copy_tree(target: Path) -> Path:
    """What a fresh checkout would have, plus what is not yet committed."""
    listing = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def build_wheel(tree: Path, wheels: Path) -> Path:
    # With a build back end at hand no package index is asked.
    isolation = ["--no-build-isolation"] if has_build_backend() else []
    pip("wheel", "--no-deps", *isolation, "--wheel-dir", wheels, tree)
    (wheel,) = wheels.glob("evenly-*.whl")
    return wheel


def has_build_backend() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def pip(*arguments: str | Path) -> None:
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])


def run(command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run to the end, fail with all it printed unless it exits with 0, return its standard output."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_installed_programs_know_the_settings_of_their_images_and_their_defaults(
    image: Image, installed: Installed
) -> None:
    listed = " ".join(run([image.program, "--help"], cwd=installed.cwd, env=installed.env({})).split())
    settings = SETTINGS[image.program]
    assert set(re.findall(r"\[([A-Z_]+)\]", listed)) - SECRETS == set(settings)
    for name, value in settings.items():
        # Where to listen and to keep the data is what the image is there to decide.
        if value and name not in ("BIND", "DATA_DIR"):
            assert f"(default: {value}) [{name}]" in listed


def test_the_programs_come_from_the_wheel_and_not_from_the_repository(installed: Installed) -> None:
    where = "import runtime.health as h, loadbalancer as l; print(h.__file__, l.__file__)"
    files = run(["python", "-c", where], cwd=installed.cwd, env=installed.env({})).split()
    assert all(Path(file).is_relative_to(installed.bin.parent) for file in files)


@contextmanager
def started(command: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=log.parent, stdout=out, stderr=subprocess.STDOUT)
    with process:
        try:
            yield process
        finally:
            process.kill()


def is_healthy(command: list[str], env: Mapping[str, str], cwd: Path) -> bool:
    status = subprocess.run(command, env=env, cwd=cwd, capture_output=True, check=False).returncode
    assert status in (0, 1), f"{command} exited with {status}: engines reserve all but 0 and 1"
    return status == 0


def test_started_as_in_the_images_both_become_healthy_and_end_on_sigterm(
    installed: Installed, tmp_path: Path
) -> None:
    balancer_port, client_port = free_ports(2)
    here = {"reverse-proxy": "127.0.0.1", "8080": balancer_port, "9000": client_port}
    with (
        as_in_its_image("loadbalancer", installed, tmp_path, here),
        as_in_its_image("clusternode", installed, tmp_path, here),
    ):
        pass


@contextmanager
def as_in_its_image(
    program: str, installed: Installed, tmp_path: Path, here: Mapping[str, str]
) -> Iterator[None]:
    """Run the program with its image's command and environment, `here` replacing what only a container has.

    Its health check must fail before, succeed within, and fail again after SIGTERM has ended it in time.
    """
    image, cwd = IMAGES[program], tmp_path / program
    here = {**here, "/data": str(cwd / "data")}
    env = installed.env({name: here.get(value, value) for name, value in image.env.items()})
    command = [here.get(word, word) for word in image.command]
    health = [here.get(word, word) for word in image.health_command]
    (cwd / "data").mkdir(parents=True, mode=0o700)
    log = cwd / "log"
    assert not is_healthy(health, env, cwd)
    with started(command, env, log) as process:
        deadline = time.monotonic() + START_SECONDS
        while not is_healthy(health, env, cwd):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
        yield
        process.terminate()
        grace = min(map(stop_grace_seconds, COMPOSE["services"].values()))
        assert process.wait(grace) == 0, log.read_text("utf-8")
    assert not is_healthy(health, env, cwd)
    assert list((cwd / "data").iterdir()), "the data directory is the one of the environment"


def free_ports(count: int) -> list[str]:
    """Ports that were free a moment ago, all different."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
