"""How soon a killed trainer learns again, and whether it matters how many versions the registry holds.

Run ``python benchmarks/startup.py [--json] [--versions 10 1000 10000] [--runs N]``. For each number of versions (half
of them on each of two lines, as the default project has): a broker process, a registry filled up, and then, a few
times, ``tidemill run trainer`` with unlearned examples waiting. A version is published after every example, so that the
first new one in the registry is the first example learned; then the trainer is killed with -9. The first start of all
warms the caches of imports and compiled code and is not counted. Processor seconds are of the trainer from its start to
that kill: on a loaded machine they say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import sqlalchemy as sa

from domain.bars import BAR_COLUMNS
from domain.checkpoint import Checkpoint
from domain.config import Places, Project, Publish
from domain.events import NANOS_PER_MINUTE
from domain.features import examples, vectors
from domain.fleet import Line
from domain.tables import BarTable, ExampleTable, VectorTable
from domain.tape import merge
from domain.topics import FEATURES, FEATURES_WITH_TARGET
from orchestration.deployment import Deployment
from orchestration.planned import as_toml
from orchestration.settings import read_project
from streaming import codec
from streaming.kafka import Kafka
from streaming.topics import create_topics
from warehouse.control import Control
from warehouse.control_tables import counters, versions
from warehouse.keys import model_key
from warehouse.leases import Lease, Leases
from warehouse.registry import Registry, folder_of
from warehouse.versions import Version, VersionInfo

ROOT = Path(__file__).parents[1]
HISTORY, STEP = 1_000, 10
DEADLINE_S = 120.0


def market(n: int) -> tuple[VectorTable, ExampleTable]:
    """Return the vectors and examples of a seeded random walk."""
    rng = np.random.default_rng(7)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    values = np.zeros((n, len(BAR_COLUMNS)))
    values[:, :4] = close[:, None] * np.array([1.0, 1.001, 0.999, 1.0])
    values[:, 4] = rng.lognormal(1, 1, n)
    bars = BarTable(NANOS_PER_MINUTE * (1 + np.arange(n)), values)
    asked = vectors(bars, 0, NANOS_PER_MINUTE)
    return asked, examples(bars, asked, 0, 5 * NANOS_PER_MINUTE, NANOS_PER_MINUTE)


def rows(table: VectorTable | ExampleTable, since: int, until: int) -> VectorTable | ExampleTable:
    """Return the rows that became known after ``since`` and not after ``until``, ns."""
    when = table.available if isinstance(table, ExampleTable) else table.ts
    return type(table)(*(column[(when > since) & (when <= until)] for column in vars(table).values()))


@dataclass
class Mill:
    """A home with a broker, a registry and a market that has been followed up to ``now``."""

    places: Places
    project: Project
    control: Control
    now: int

    def environment(self) -> dict[str, str]:
        """Return what a service under the supervisor gets, and nothing else."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        return kept | Deployment(self.places, self.project).environment()

    def start(self, service: str, **options: object) -> subprocess.Popen[str]:
        """Start a service as a process."""
        command = [sys.executable, "-m", "orchestration.cli", "run", service]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment(), text=True, **options)  # noqa: S603

    def newest(self) -> list[int]:
        """Return the number of each line's newest version."""
        registry = Registry(self.control, self.places.models)
        found = [registry.newest(name) for name in self.project.instruments]
        return [version.number for version in found if version is not None]

    def send(self, asked: VectorTable, answered: ExampleTable, minutes: int) -> None:
        """Let the market go on for some minutes."""
        until, writer = self.now + minutes * NANOS_PER_MINUTE, Kafka(self.places).writer()
        for partition, name in enumerate(self.project.instruments):
            some, known = rows(asked, self.now, until), rows(answered, self.now, until)
            writer.send(FEATURES, partition, name, codec.encode_vectors(name, some))
            encoded = codec.encode_examples(name, known, self.project.horizon_s)
            writer.send(FEATURES_WITH_TARGET, partition, name, encoded)
        writer.flush()
        self.now = until

    def fill(self, asked: VectorTable, answered: ExampleTable, count: int) -> None:
        """Publish ``count`` versions a line, of which the newest is whole and the others copies of a file."""
        registry = Registry(self.control, self.places.models, model_key(self.places))
        leases = Leases(self.control)
        for name in self.project.instruments:
            lease = leases.acquire(name, "benchmark", 60.0)
            line = Line(name, self.project.fleet)
            line.advance(merge(rows(asked, 0, self.now), rows(answered, 0, self.now)), self.now)
            line.freeze()

            def publish(kind: str, parent: int | None, line: Line = line, lease: Lease = lease) -> Version:
                this = Checkpoint(
                    line,
                    self.project.interval,
                    self.project.horizon,
                    kind=kind,
                    parent=parent,
                    probes=asked.values[:64],
                )
                return registry.publish(line.name, registry.seal(this), VersionInfo.of(this), lease)

            first = publish("initial", None)
            self._copy(first, count - 2)
            publish("update", count - 1)
            leases.release(lease)

    def _copy(self, first: Version, count: int) -> None:
        folder = folder_of(self.places.models, first.line)

        def work(connection: sa.Connection) -> None:
            row = dict(connection.execute(sa.select(versions).where(versions.c.id == first.id)).mappings().one())
            base = connection.execute(sa.select(counters.c.value).where(counters.c.name == "versions")).scalar_one()
            copies = []
            for k in range(1, count + 1):
                number = first.number + k
                path = folder / f"{number}-1.safetensors"
                path.hardlink_to(first.path)
                where = str(path.relative_to(self.places.models))
                changed = {"id": base + k, "number": number, "parent": number - 1, "path": where, "kind": "update"}
                copies.append(row | changed)
            connection.execute(sa.insert(versions), copies)
            connection.execute(sa.update(counters).where(counters.c.name == "versions").values(value=base + count))

        self.control.write(work)


def one_start(mill: Mill) -> dict[str, float]:
    """Start the trainer, wait until it has learned an example, kill it; return the seconds that each took."""
    before = mill.newest()
    began = time.monotonic()
    trainer = mill.start("trainer", stderr=subprocess.PIPE)
    try:
        assert trainer.stderr is not None
        said = []
        for text in trainer.stderr:
            said.append(text)
            if " running" in text:
                break
        else:
            raise SystemExit("the trainer ended: " + "".join(said[-5:]))
        running = time.monotonic() - began
        while mill.newest() == before:
            if time.monotonic() - began > DEADLINE_S:
                raise SystemExit(f"nothing learned within {DEADLINE_S:.0f} s")
            time.sleep(0.005)
        learned = time.monotonic() - began
    finally:
        os.kill(trainer.pid, signal.SIGKILL)
        _, _, used = os.wait4(trainer.pid, 0)
    return {"running_s": running, "learned_s": learned, "processor_s": used.ru_utime + used.ru_stime}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(count: int, runs: int) -> dict[str, object]:
    """Return the figures for so many versions in the registry."""
    asked, answered = market(HISTORY + 2 * (runs + 2) * STEP)
    with tempfile.TemporaryDirectory(prefix="tidemill-startup-") as home:
        places = Places(home=Path(home), config=Path(home) / "tidemill.toml", broker_port=free_port())
        default = read_project(Places(home=Path(home), config=ROOT / "tidemill.toml"))
        project = default.model_copy(update={"publish": Publish(examples=1, every_s=0)})
        places.config.write_text(as_toml(project), "utf-8")
        with Control.open(places.control) as control:
            mill = Mill(places, project, control, HISTORY * NANOS_PER_MINUTE)
            mill.fill(asked, answered, count // len(project.instruments))
            broker = mill.start("broker", stderr=subprocess.DEVNULL)
            try:
                create_topics(places, project.instruments)
                starts = []
                for run in range(runs + 1):
                    mill.send(asked, answered, STEP)
                    found = one_start(mill)
                    if run:
                        starts.append(found)
                held = sum(Registry(control, places.models).count(name) for name in project.instruments)
            finally:
                os.kill(broker.pid, signal.SIGTERM)
                broker.wait()
    return {
        "versions": count,
        "versions_at_the_end": held,
        **{name: statistics.median(start[name] for start in starts) for name in starts[0]},
        "worst_learned_s": max(start["learned_s"] for start in starts),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--versions", type=int, nargs="+", default=[10, 1_000, 10_000], help="in the registry, >= 8")
    parser.add_argument("--runs", type=int, default=5, help="starts of each, at least 3")
    chosen = parser.parse_args()
    found = [measure(max(8, count), max(3, chosen.runs)) for count in chosen.versions]
    if chosen.json:
        machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, "cores": os.cpu_count(), "load": os.getloadavg()[0], "starts": found}))
        return
    print(f"{'versions':>9} {'running':>9} {'learned':>9} {'worst':>9} {'processor':>9}   seconds")
    for one in found:
        print(
            f"{one['versions']:>9,} {one['running_s']:>9.2f} {one['learned_s']:>9.2f} {one['worst_learned_s']:>9.2f} "
            f"{one['processor_s']:>9.2f}"
        )


if __name__ == "__main__":
    main()
