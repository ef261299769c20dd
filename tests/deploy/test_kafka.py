"""Apache Kafka as one node: what it needs is named when it is missing, and the command is the node of the tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from deploy.kafka.jars import JARS, Missing, jars, java
from deploy.kafka.node import KafkaNode
from domain.errors import BadState
from tests.brokers import ROOT

PATIENCE_S = 120


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A machine on which only the programs of this directory can be found, and no jars are kept."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv(JARS, str(tmp_path / "cache" / "jars"))
    return directory


def test_without_java_it_says_so(path):
    with pytest.raises(Missing, match="Java is not here; install Java 17"):
        KafkaNode(path.parent / "home")


def test_a_java_that_is_too_old_is_named(path):
    program(path, "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    with pytest.raises(Missing, match=r"11\.0\.2.*needs 17"):
        java()


def test_without_maven_and_jars_it_says_so(path):
    with pytest.raises(Missing, match="nor Maven are here"):
        jars()


def test_what_maven_cannot_collect_is_told_and_leaves_nothing_behind(path):
    program(path, "mvn", "echo '[ERROR] offline and not cached'; exit 1")
    with pytest.raises(Missing, match="offline and not cached"):
        jars()
    assert list((path.parent / "cache").iterdir()) == []


def test_jars_are_collected_once(path, monkeypatch):
    log = path.parent / "asked"
    monkeypatch.setenv("PATH", f"{path}:/bin:/usr/bin")
    program(path, "mvn", f'echo . >> {log}; for a; do case "$a" in -DoutputDirectory=*) mkdir "${{a#*=}}";; esac; done')
    assert jars() == jars() == path.parent / "cache" / "jars"
    assert log.read_text() == ".\n"
    assert [entry.name for entry in (path.parent / "cache").iterdir()] == ["jars"]


def test_a_running_node_is_not_wiped(apache):
    with pytest.raises(BadState, match="stop it first"):
        apache.wipe()
    assert not apache.ended


def command(home: Path, port: int) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "deploy.kafka", "--home", str(home), "--port", str(port)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_prints_what_to_export_and_stops_when_asked(apache, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with command(tmp_path / "home", port) as running:
        said = ""
        while "export" not in said:
            said = running.stdout.readline()
            assert said, running.stderr.read()
        assert said.strip() == f"export TIDEMILL_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port}"
        assert AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"}).list_topics(timeout=20).brokers
        with command(tmp_path / "other", port) as second:
            assert second.wait(PATIENCE_S) == 2
            assert f"port {port} is taken" in second.stderr.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE_S) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
