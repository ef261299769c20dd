"""The web server shows its pulse while its loop goes and it has its code server."""

import asyncio
import os
import subprocess

import uvicorn

from orchestration import webserver
from orchestration.processes import descendants


def test_a_web_server_that_lost_its_code_server_shows_no_pulse(tmp_path, monkeypatch):
    beat = tmp_path / "pulse"
    monkeypatch.setenv("TIDEMILL_PULSE", str(beat))
    monkeypatch.setattr(webserver, "BEAT_S", 0.0)
    server = webserver._Server(uvicorn.Config(lambda: None))

    def shown():
        beat.unlink(missing_ok=True)
        asyncio.run(server.on_tick(1))
        return beat.exists()

    others = descendants(os.getpid())  # of other tests
    monkeypatch.setattr(webserver, "descendants", lambda pid: [who for who in descendants(pid) if who not in others])
    assert shown(), "none was ever there"
    with subprocess.Popen(["sleep", "600"]) as code_server:
        try:
            assert shown()
        finally:
            code_server.kill()
    assert not shown()
