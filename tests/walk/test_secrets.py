"""Secrets of a whole Tidemill after a day of operation: they stand in their own files and nowhere else."""

import stat
from pathlib import Path

import httpx
import pytest

from tests.attacks.test_environment_in_forms import FORMS, LAUNCH
from tests.walk.up import wait_for

CANARY = b"canary-"


def processes_of(home):
    """Return environment and command line of every process of a home."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(home).encode() in command + environment:
                found[f"{entry.name} {command.replace(bytes(1), b' ').decode()}"] = command + environment
    return found


@pytest.mark.timeout(600)
def test_after_a_day_of_operation_no_log_run_file_or_process_shows_a_secret(mill):
    wait_for("every service healthy", 120, lambda: mill.status()[0])
    for form in FORMS.values():  # they ask for it
        asked = {"query": LAUNCH, "variables": {"form": form}}
        reply = httpx.post(f"http://127.0.0.1:{mill.dagster}/graphql", json=asked, timeout=60)
        assert "launchRun" in reply.json()["data"]
        assert CANARY not in reply.content
    mill.run("doctor")
    mill.run("status", "--json")

    processes = processes_of(mill.home)
    assert len(processes) >= 18, "nine processes and their shims"
    assert [name for name, told in processes.items() if CANARY in told] == []

    secret = mill.home / "secrets"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o700
    for path in secret.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert CANARY in path.read_bytes()
    holding = []
    for path in mill.home.rglob("*"):
        try:
            if path.is_file() and path.parent != secret and CANARY in path.read_bytes():
                holding.append(path.relative_to(mill.home))
        except FileNotFoundError:  # a journal, or a version that was pruned meanwhile
            continue
    assert holding == []
