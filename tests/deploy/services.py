"""The services of the compose file as plain processes, with the commands, settings, secrets and checks it gives them.

What a container would bring is replaced: the image's folders, `/tmp`, the volumes, the names of database and broker.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM

from nexus_tasks.sandbox.managed_process import ManagedProcess
from nexus_tasks.sandbox.ports import free_port
from nexus_tasks.sandbox.valkey import _binary as valkey_server
from tests.deploy.files import DEPLOY, ENV_EXAMPLE, IN_IMAGE, MAKE_SECRETS, compose, env_lines, seconds

BIN = Path(sys.executable).parent
DEFAULT_GRACE = "10s"  # Docker's, where the compose file says nothing
CHECK_INTERVAL_S = 0.2
START_DEADLINE_S = 60.0
SERVERS = {"postgres", "valkey"}
ONE_SHOT = "migrate"


class Services:
    """`settings` stand for the operator's lines in `.env`, `secrets` for what was filled into the files."""

    def __init__(
        self, folder: Path, *, postgres_port: int, settings: Mapping[str, str], secrets: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.flower_port, self.valkey_port = free_port(), free_port()
        self.lines = {**env_lines(ENV_EXAMPLE), "BUILD_INTERVAL": "15", **settings}
        self.file = compose(self.lines)
        self.secrets = folder / "secrets"
        hosts = [f"127.0.0.1:{postgres_port}", f"127.0.0.1:{self.valkey_port}"]
        subprocess.run([MAKE_SECRETS, self.secrets, *hosts], check=True, capture_output=True)
        for name, value in secrets.items():
            assert (self.secrets / name).read_text() == "", f"{name} is no secret to be filled in"
            (self.secrets / name).write_text(f"{value}\n", encoding="utf-8")
        for name in ("data", "instruments", "plugins"):
            (folder / name).mkdir()
        for name in set(self.file["services"]) - SERVERS:
            self._grant(name)
        self.revived: list[str] = []
        self._asked_to_end: set[str] = set()
        names = set(self.file["services"]) - SERVERS - {ONE_SHOT}
        self.processes = {
            name: self._process(name)
            for name in sorted(names)
            if not self.file["services"][name].get("profiles")  # not started unless asked for
        }
        self.valkey = self._valkey()

    # --- all of them

    def start(self, only: Sequence[str] = ()) -> None:
        """The broker, the migration, then the others at once, each until its check says that it is well."""
        self.valkey.start()
        migrate = self._process(ONE_SHOT)
        migrate.ready = None
        migrate.start()
        assert migrate.wait(START_DEADLINE_S) == 0, migrate.logs()
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(self.start_one, only or self.processes))

    def stop(self) -> None:
        for process in (*self.processes.values(), self.valkey):
            process.kill()

    def revive(self) -> None:
        """`restart: unless-stopped`."""
        for name, process in self.processes.items():
            if process.pid_file.exists() and not process.is_running() and name not in self._asked_to_end:
                self.revived.append(name)
                self.start_one(name)

    def restart(self, name: str) -> float:
        """As `docker compose restart`: SIGTERM, its grace, start again; the seconds it took to end."""
        took = self.end(name)
        self.start_one(name)
        return took

    def end(self, name: str) -> float:
        """SIGTERM to the program alone, as its init passes it on; raises `ProcessError` after its grace."""
        process = self.processes[name]
        began = time.monotonic()
        self._asked_to_end.add(name)
        process.send_signal(SIGTERM)
        status = process.wait(self.grace(name))
        assert status == 0, f"{name} ended with {status}: {process.logs()[-2000:]}"
        return time.monotonic() - began

    def start_one(self, name: str) -> None:
        """Start it and wait until its check says that it is well."""
        tmp = self._tmp(name)
        shutil.rmtree(tmp, ignore_errors=True)  # a container's /tmp is new
        tmp.mkdir(parents=True)
        self.processes[name].start()
        self._asked_to_end.discard(name)

    # --- one of them

    def grace(self, name: str) -> int:
        return seconds(self.file["services"][name].get("stop_grace_period", DEFAULT_GRACE))

    def environment(self, name: str) -> dict[str, str]:
        """What its container would be given: the lines of `.env`, and its own."""
        service = self.file["services"][name]
        own = {key: self._here(str(value), name) for key, value in service["environment"].items()}
        return {**self.lines, **own, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(self._tmp(name))}

    def _grant(self, name: str) -> None:
        """The secrets that the compose file grants it, and no others."""
        granted = self.folder / "granted" / name
        granted.mkdir(parents=True)
        for secret in self.file["services"][name]["secrets"]:
            shutil.copyfile(self.secrets / Path(self.file["secrets"][secret]["file"]).name, granted / secret)

    def healthy(self, name: str) -> bool:
        """Its health check."""
        kind, *check = self.file["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [self._here(word, name) for word in check]
        environment = {**os.environ, **self.environment(name)}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    def _process(self, name: str) -> ManagedProcess:
        command = [self._here(word, name) for word in self.file["services"][name]["command"]]
        folder = self.folder / "processes" / name
        process = ManagedProcess(name, command, folder, env=self.environment(name), deadline=START_DEADLINE_S)
        process.ready = lambda: self._ready(name)
        return process

    def _ready(self, name: str) -> bool:
        time.sleep(CHECK_INTERVAL_S)
        return self.healthy(name)

    def _valkey(self) -> ManagedProcess:
        command = [self._here(word, "valkey") for word in self.file["services"]["valkey"]["command"]]
        (self.folder / "valkey").mkdir()
        place = ["--port", str(self.valkey_port), "--bind", "127.0.0.1", "--dir", str(self.folder / "valkey")]
        process = ManagedProcess("valkey", [*command, *place], self.folder / "valkey")
        process.command[0] = str(valkey_server())
        process.ready = lambda: "Ready to accept connections" in process.logs_since_start()
        return process

    def _tmp(self, name: str) -> Path:
        return self.folder / "tmp" / name

    def _here(self, word: str, name: str) -> str:
        """A word of the compose file on this machine."""
        places = {
            IN_IMAGE: DEPLOY,
            "/run/secrets": self.secrets if name in SERVERS else self.folder / "granted" / name,
            "/srv/nexus": self.folder / "data",
            "/mnt/instruments": self.folder / "instruments",
            "/mnt/plugins": self.folder / "plugins",
            "/tmp": self._tmp(name),
            "5555": self.flower_port,
            "0.0.0.0": "127.0.0.1",
        }
        return re.sub("|".join(map(re.escape, places)), lambda found: str(places[found[0]]), word)
