"""The jars of Apache Kafka: collected once by Maven from what ``pom.xml`` names, then taken from a cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from domain.errors import BadState, Unavailable

POM = Path(__file__).parent / "pom.xml"
JARS = "TIDEMILL_KAFKA_JARS"
"""Names the directory of the jars; by default they lie in the user's cache, one directory per version."""

OLDEST_JAVA = 17
COLLECTS_WITHIN_S = 600.0


class Missing(Unavailable):
    """Something Apache Kafka needs is not on this machine; the message says what, and what to do."""


def version() -> str:
    """Return the version of Apache Kafka that ``pom.xml`` names."""
    found = re.search(r"<kafka\.version>(.+?)<", POM.read_text("utf-8"))
    if found is None:
        raise BadState(f"{POM} names no kafka.version")
    return found[1]


def java() -> str:
    """Return the path of a Java that is new enough.

    Raises
    ------
    Missing
        When there is none.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin" if home else None)
    if program is None:
        raise Missing(f"Java is not here; install Java {OLDEST_JAVA} or newer (Debian: openjdk-17-jre-headless)")
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < OLDEST_JAVA:
        raise Missing(f"{program} is {said.splitlines()[0] if said else 'mute'}; Apache Kafka 4 needs {OLDEST_JAVA}")
    return program


def jars() -> Path:
    """Return the directory of the jars, collecting them on first use.

    Raises
    ------
    Missing
        When they are not here and Maven is not either, or it cannot collect them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get(JARS) or cache / "tidemill" / f"kafka-{version()}")
    if not place.exists():
        _collect(place)
    return place


def _collect(place: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing(f"neither the jars of Apache Kafka ({place}) nor Maven are here; install Maven (Debian: maven)")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{place.name}.", dir=place.parent) as scratch:
        command = [maven, "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        # In the scratch directory Maven leaves nothing beside pom.xml; a rename makes the jars appear all at once.
        ran = subprocess.run(
            [*command, f"-DoutputDirectory={scratch}/jars"],
            cwd=scratch, capture_output=True, text=True, timeout=COLLECTS_WITHIN_S, check=False,
        )  # fmt: skip
        if ran.returncode:
            errors = [line for line in ran.stdout.splitlines() if line.startswith("[ERROR]")] or ["it says nothing"]
            raise Missing(f"Maven cannot collect Apache Kafka {version()}: {errors[0].removeprefix('[ERROR] ')}")
        try:
            (Path(scratch) / "jars").rename(place)
        except OSError:
            if not place.exists():  # else somebody was quicker
                raise
