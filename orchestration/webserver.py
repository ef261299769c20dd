"""Dagster's web server behind our door: ``python -m orchestration.webserver``, started by ``tidemill up``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import uvicorn

from domain.config import Places
from domain.errors import TidemillError, UsageError
from orchestration.door import App, Door, Rules
from orchestration.instance import lend_url
from orchestration.processes import descendants
from orchestration.pulse import BEAT_S, pulse
from orchestration.settings import read_places

DEFINITIONS = "orchestration.definitions"


def rules_of(places: Places) -> Rules:
    """Return who may enter Dagster's pages; ``Places`` sees to it that they are not open beyond this machine."""
    return Rules(places.dagster_port, places.dagster_public, places.dagster_proxies, places.dagster_token)


def serve(places: Places) -> None:
    """Serve Dagster's pages and GraphQL until SIGTERM or SIGINT."""
    lend_url(places)
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    target = ModuleTarget(DEFINITIONS, None, str(Path.cwd()), None)
    # SIGTERM must end the code server, too, while it is still being started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        with WorkspaceProcessContext(instance, version=__version__, workspace_load_target=target) as context:
            app: App = create_app_from_workspace_process_context(context)
            config = uvicorn.Config(
                Door(app, rules_of(places)), host=places.dagster_host, port=places.dagster_port, log_level="warning",
                server_header=False, proxy_headers=False, timeout_graceful_shutdown=3,
            )  # fmt: skip
            _Server(config).run()


class _Server(uvicorn.Server):
    """A server that shows its shim that its loop goes, while it has the code server that it started.

    Dagster does not start another one for its pages: when it is lost, the whole is restarted.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._show, self._due, self._had_code = pulse(), 0.0, False

    async def on_tick(self, counter: int) -> bool:
        """Show the pulse about once a second; called ten times as often."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + BEAT_S
            has_code = bool(descendants(os.getpid()))
            self._had_code |= has_code
            if has_code or not self._had_code:  # none at all where it cannot be loaded, or on macOS
                self._show()
        return await super().on_tick(counter)


def main() -> int:
    """Serve; return the exit code: 2 for a person's mistake."""
    try:
        serve(read_places())
    except TidemillError as error:
        os.write(2, f"tidemill: {error}\n".encode())
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
