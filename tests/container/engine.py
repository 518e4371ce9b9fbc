"""A Docker engine of the test's own, and the base image it builds on. Nothing outlives `close`.

dockerd runs by hand with its own data root, socket and no bridge; it changes neither the machine's packet
filter nor its forwarding. The base image is a minimal Debian from debootstrap, so no registry is asked. What
pip is told on this machine (index, certificate, folders of wheels) goes into one more layer below the
project's Dockerfile, which therefore names no host.

`Engine.missing` says what the machine lacks. Commands that fail raise EngineError with what they said.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .tools import compose

TOOLS = ("dockerd", "docker", "debootstrap")
# Debian's own client first: it comes with the engine and knows BuildKit.
SEARCH = "/usr/bin:/usr/sbin:/usr/local/bin:/bin:/sbin"
RELEASE = "bookworm"
BASE_IMAGE = "atoll-test-debian"
PIP_IMAGE = "atoll-test-base"
SLIMMED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
PLUGINS = Path("/run/docker")
POOL = "172.30.0.0/16"
"""Subnets of networks that ask for none."""
STOP_TIMEOUT_S = 60.0


class EngineError(RuntimeError):
    """A command of the engine failed; the message is what it said."""


class Engine:
    """A running dockerd. `docker` runs its client."""

    def __init__(self) -> None:
        # dockerd makes this one wherever its other folders are.
        self._plugins = None if PLUGINS.exists() else PLUGINS
        self.folder = Path(tempfile.mkdtemp(prefix="atoll-engine-"))
        self._socket = f"unix://{self.folder}/docker.sock"
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                tool("dockerd"),
                f"--data-root={self.folder}/data",
                f"--exec-root={self.folder}/exec",
                f"--pidfile={self.folder}/pid",
                f"--host={self._socket}",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                f"--default-address-pool=base={POOL},size=24",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a client of this engine."""
        own = {
            "DOCKER_HOST": self._socket,
            "DOCKER_CONFIG": f"{self.folder}/client",
            "DOCKER_BUILDKIT": "1",
        }
        return {**os.environ, **own}

    @staticmethod
    def missing() -> str | None:
        """Why no engine can run here, or None."""
        if os.geteuid() != 0:
            return "the container tests start a Docker engine, which needs root"
        lacking = [name for name in TOOLS if shutil.which(name, path=SEARCH) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else None

    def answers(self) -> bool:
        """Whether it is up. Raises EngineError if it has ended."""
        if self._process.poll() is not None:
            raise EngineError((self.folder / "log").read_text(errors="replace")[-4000:])
        return self._client(["version"], None).returncode == 0

    def docker(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """stdout of a client command. Raises EngineError."""
        done = self._client(arguments, timeout_s)
        if done.returncode:
            raise EngineError(f"docker {' '.join(arguments)}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def _client(self, arguments: Sequence[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
        command = [tool("docker"), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def logs(self, name: str) -> str:
        """What a container said last, on stdout and stderr."""
        done = self._client(["logs", "--tail", "60", name], 60.0)
        return f"{done.stdout}{done.stderr}"

    def clear(self) -> None:
        """Removes all containers, their volumes and networks; images stay."""
        names = self.docker("ps", "--all", "--quiet").split()
        if names:
            self.docker("rm", "--force", "--volumes", *names)
        self.docker("network", "prune", "--force")
        volumes = self.docker("volume", "ls", "--quiet").split()
        if volumes:
            self.docker("volume", "rm", *volumes)

    def compose(self, *arguments: str, timeout_s: float = 300.0, **variables: str) -> str:
        """stdout of a command of Docker Compose. Raises EngineError."""
        done = subprocess.run(
            [compose(), *arguments],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise EngineError(f"compose {' '.join(arguments)}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def make_base(self) -> None:
        """BASE_IMAGE from debootstrap, PIP_IMAGE with this machine's pip settings on top."""
        root = self.folder / "rootfs"
        packages = "--include=ca-certificates,python3,python3-venv"
        run([tool("debootstrap"), "--variant=minbase", packages, RELEASE, str(root)])
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        # The official slim images have none of these either.
        for path in SLIMMED:
            shutil.rmtree(root / path)
        archive = self.folder / "rootfs.tar"
        run(["tar", "-C", str(root), "-cf", str(archive), "."])
        shutil.rmtree(root)
        path = "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8"
        self.docker("import", "--change", path, str(archive), BASE_IMAGE)
        archive.unlink()
        context = self.folder / "base"
        pip_layer(context, pip_settings())
        self.docker("build", "--quiet", "--tag", PIP_IMAGE, str(context))
        shutil.rmtree(context)

    def close(self) -> None:
        """Ends the engine with whatever still runs in it, and removes everything it kept."""
        if self._process.poll() is None and self.answers():
            self.clear()  # bridges outlive the engine that made them
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        for mount in reversed(mounts_below(self.folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder)
        if self._plugins is not None:
            shutil.rmtree(self._plugins, ignore_errors=True)


def tool(name: str) -> str:
    """Path of an installed program. Raises EngineError."""
    found = shutil.which(name, path=SEARCH)
    if found is None:
        raise EngineError(f"{name} is not installed")
    return found


def run(command: Sequence[str]) -> str:
    """stdout of a command. Raises EngineError."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def mounts_below(folder: Path) -> list[str]:
    """Mount points below `folder`, outermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for path in (line.split()[4] for line in lines) if path.startswith(f"{folder}/")]


def pip_settings() -> dict[str, str]:
    """pip's settings on this machine by name ("cert", "index-url", …), the environment's over the files'."""
    settings: dict[str, str] = {}
    from_environment: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        place, _, name = key.rpartition(".")
        (from_environment if place == ":env:" else settings)[name] = str(ast.literal_eval(value))
    return settings | from_environment


def pip_layer(context: Path, settings: Mapping[str, str]) -> None:
    """A build context that puts certificate, indices and local wheels into the base image."""
    (context / "wheels").mkdir(parents=True)
    lines = ["[global]"]
    certificate = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    bundle = Path(certificate) if certificate else Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(bundle, context / "ca.crt")
    lines.append("cert = /etc/ssl/certs/ca-certificates.crt")
    lines += [f"{name} = {settings[name]}" for name in ("index-url", "timeout") if name in settings]
    extra = [url for url in settings.get("extra-index-url", "").split() if url.startswith("http")]
    lines += [f"extra-index-url = {' '.join(extra)}"] if extra else []
    remote = []
    for place in settings.get("find-links", "").split():
        if Path(place).is_dir():
            for wheel in Path(place).glob("*.whl"):
                shutil.copy(wheel, context / "wheels")
        else:
            remote.append(place)
    lines.append(f"find-links = {' '.join([*remote, '/ci-wheels'])}")
    (context / "pip.conf").write_text("\n".join(lines) + "\n")
    (context / "Dockerfile").write_text(
        f"FROM {BASE_IMAGE}\n"
        "COPY ca.crt /etc/ssl/certs/ca-certificates.crt\n"
        "COPY pip.conf /etc/pip.conf\n"
        "COPY wheels /ci-wheels\n"
    )
