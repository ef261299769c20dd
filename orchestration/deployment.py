"""What runs where: each service's command, environment and fingerprint, handed to the local supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from domain.config import SECRETS, Places, Project
from domain.errors import UsageError
from domain.services import SERVICES
from orchestration.fingerprints import code_version, config_digest
from orchestration.secret_files import DIRECTORY, keep_secrets
from orchestration.settings import Opening
from orchestration.supervisor import Policy, Status, Supervisor, inherited

DAGSTER = ("dagster-daemon", "dagster-webserver")
FOUNDATION = ("broker", "exchange", *DAGSTER)
"""What services can stand on, in the order of starting."""

PULSES = dict.fromkeys(("exchange", *DAGSTER), 60.0) | {"broker": 30.0}
"""Seconds without a pulse after which a part of the foundation hangs: many times what it is late on a busy machine."""

SUPERVISED = "TIDEMILL_SUPERVISED"
"""Set for processes that a supervisor started."""

REHEARSAL_S = 60.0
"""For imports and reading a recording's files, on a busy laptop."""


@dataclass(frozen=True)
class Deployment:
    """The services of one home on this machine.

    Attributes
    ----------
    places : where things are; its paths are made absolute for the services
    project : what to predict
    tended : whether Dagster tends the streams: then a crash waits for its sensor, which redeploys with a reason on
        record, and only what Dagster itself stands on is restarted by the shim
    policy : how the shim keeps what it restarts
    """

    places: Places
    project: Project
    tended: bool = True
    policy: Policy = field(default_factory=Policy)

    @property
    def foundation(self) -> tuple[str, ...]:
        """What the services stand on, in the order of starting; the shim restarts it, whoever else is up."""
        ours = {
            "broker": not self.places.kafka_bootstrap_servers,
            "exchange": self.project.market.source == "box",
        }
        return tuple(name for name in FOUNDATION if ours.get(name, True))

    @property
    def supervisor(self) -> Supervisor:
        """The local supervisor of this home, for looking, stopping and for what Dagster stands on."""
        return supervisor_of(self.places, self.policy)

    def _supervisor_of(self, name: str) -> Supervisor:
        policy = self.policy
        if self.tended and name in SERVICES:
            policy = replace(policy, max_fails=0)
        elif self.tended:
            policy = replace(policy, keep=True, pulse_s=PULSES.get(name, 0.0))
        return Supervisor(self.supervisor.root, policy)

    def start(self, name: str) -> Status:
        """Start a service unless it runs with this very specification."""
        return self._supervisor_of(name).start(
            name, self.argv(name), env=self.environment(), cwd=Path.cwd(), meta=self.fingerprint(name)
        )

    def redeploy(self, name: str) -> Status:
        """Start a service afresh, with today's configuration and code, whatever it did before."""
        if self.supervisor.spec(name) is None:
            return self.start(name)
        return self._supervisor_of(name).restart(
            name, argv=self.argv(name), env=self.environment(), cwd=Path.cwd(), meta=self.fingerprint(name)
        )

    def rehearse(self, name: str) -> str:
        """Run the service's command as far as it opens nothing; return the last lines of a failure, or nothing."""
        try:
            done = subprocess.run(  # noqa: S603 - our own command
                [*self.argv(name), "--rehearse"],
                env={**inherited(), **self.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=REHEARSAL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it was not through after {REHEARSAL_S:g} s"
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        return "" if done.returncode == 0 else said or f"exit code {done.returncode}"

    def environment(self) -> dict[str, str]:
        """Return the environment that tells services where things are: the fields of ``Places`` that are not secret.

        Secrets stand in files; a service reads there what it needs.
        """
        market = "" if Opening.path(self.places).exists() else self.places.market  # a settled home says it itself
        places = self.places.model_copy(
            update={"home": self.places.home.absolute(), "config": self.places.config.absolute(), "market": market}
        )
        values = places.model_dump(mode="json", exclude=set(SECRETS))
        told = {f"TIDEMILL_{field.upper()}": str(value) for field, value in values.items()}
        return {
            **told, DIRECTORY: str(keep_secrets(places)), SUPERVISED: "1",
            "DAGSTER_HOME": str(places.home / "dagster"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def fingerprint(self, name: str) -> dict[str, str]:
        """Return digests of what the service depends on: one whose fingerprint differs is out of date."""
        if name not in SERVICES:
            return {}
        return {"config": config_digest(self.project, name), "code": code_version(name)}

    def refuse_second(self, name: str) -> None:
        """Refuse to run beside the supervised service of the same name: two of a kind would do everything twice.

        Raises
        ------
        UsageError
            When it runs here already, and this process is not the supervisor's own.
        """
        if os.environ.get(SUPERVISED) or self.supervisor.spec(name) is None:
            return
        status = self.supervisor.status(name)
        if status.phase in {"running", "frozen", "backoff", "starting", "restarting"}:
            raise UsageError(f"{name} already runs here (pid {status.pid}); 'tidemill down' stops it")

    def argv(self, name: str) -> list[str]:
        """Return the command that runs a service."""
        if name not in DAGSTER:
            return [sys.executable, "-m", "orchestration.cli", "run", name]
        if name == "dagster-daemon":
            return [sys.executable, "-m", "orchestration.daemon"]
        return [sys.executable, "-m", "orchestration.webserver"]


def supervisor_of(places: Places, policy: Policy | None = None) -> Supervisor:
    """Return the local supervisor of a home."""
    return Supervisor(places.home.absolute() / "services", policy or Policy())
