"""What runs where: each service's command, environment and fingerprint, handed to the local supervisor."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from domain.config import Places, Project
from orchestration.supervisor import Policy, Status, Supervisor

STREAMS = ("ingest", "featurizer", "trainer", "predictor", "lander")
"""The services between the topics, in the order of the flow."""

DAGSTER = ("dagster-daemon", "dagster-webserver")

SUPERVISED = "TIDEMILL_SUPERVISED"
"""Set for processes that a supervisor started."""

PACKAGES = ("domain", "markets", "warehouse", "streaming", "assets", "orchestration")


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
    def supervisor(self) -> Supervisor:
        """The local supervisor of this home, for looking, stopping and for what Dagster stands on."""
        return Supervisor(self.places.home.absolute() / "services", self.policy)

    def _supervisor_of(self, name: str) -> Supervisor:
        waits = self.tended and name in STREAMS
        return Supervisor(self.supervisor.root, replace(self.policy, max_fails=0) if waits else self.policy)

    def start(self, name: str) -> Status:
        """Start a service unless it runs with this very specification."""
        return self._supervisor_of(name).start(
            name, self.argv(name), env=self.environment(), cwd=Path.cwd(), meta=self.fingerprint()
        )

    def redeploy(self, name: str) -> Status:
        """Start a service afresh, with today's configuration and code, whatever it did before."""
        if self.supervisor.spec(name) is None:
            return self.start(name)
        return self._supervisor_of(name).restart(
            name, argv=self.argv(name), env=self.environment(), cwd=Path.cwd(), meta=self.fingerprint()
        )

    def environment(self) -> dict[str, str]:
        """Return the environment that tells a service where things are: every field of ``Places``."""
        places = self.places.model_copy(
            update={"home": self.places.home.absolute(), "config": self.places.config.absolute()}
        )
        values = places.model_dump(mode="json") | {"kafka": json.dumps(places.kafka)}
        told = {f"TIDEMILL_{name.upper()}": str(value) for name, value in values.items()}
        return {**told, SUPERVISED: "1", "DAGSTER_HOME": str(places.home / "dagster"), "PYTHONUNBUFFERED": "1"}

    def fingerprint(self) -> dict[str, str]:
        """Return digests of configuration and code: a service whose fingerprint differs is out of date."""
        return {"config": self.config_hash(), "code": code_version()}

    def config_hash(self) -> str:
        """Return a digest of what the project says."""
        return hashlib.sha256(self.project.model_dump_json().encode()).hexdigest()[:12]

    def argv(self, name: str) -> list[str]:
        """Return the command that runs a service."""
        if name not in DAGSTER:
            return [sys.executable, "-m", "orchestration.cli", "run", name]
        program = str(Path(sys.executable).parent / name)
        module = ["-m", "orchestration.definitions"]
        if name == "dagster-daemon":
            return [program, "run", *module]
        return [program, "-h", "127.0.0.1", "-p", str(self.places.dagster_port), *module]


def code_version() -> str:
    """Return the package's version and a digest of its sources."""
    root = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            sha.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{version('tidemill')}+{sha.hexdigest()[:8]}"
