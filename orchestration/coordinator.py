"""Dagster's run coordinator with one rule more: no form reads the environment of the process that runs it.

Dagster lets a form's text be ``{env: NAME}`` and puts the variable's value in its place. Anyone who can open the
launchpad could so read what is meant for the process alone: the value lands in logs, ticks and metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster import DagsterRun
from dagster._core.run_coordinator import DefaultRunCoordinator, SubmitRunContext

from domain.errors import UsageError


class Coordinator(DefaultRunCoordinator):
    """Starts runs at once, but none whose configuration refers to the environment."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Start the run, or report it failed with the reason."""
        run = context.dagster_run
        try:
            refuse_references(run.run_config)
        except UsageError as error:
            self._instance.report_run_failed(run, str(error))
            return self._instance.get_run_by_id(run.run_id) or run
        return super().submit_run(context)


def refuse_references(config: object, path: str = "") -> None:
    """Return when a run's configuration holds plain values only.

    Raises
    ------
    UsageError
        When a value is ``{env: NAME}``; the message says where.
    """
    if isinstance(config, Mapping):
        if set(config) == {"env"}:
            raise UsageError(f"{path or 'the form'}: a form does not read the environment; write the value itself")
        for name, value in config.items():
            refuse_references(value, f"{path}.{name}" if path else str(name))
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for i, value in enumerate(config):
            refuse_references(value, f"{path}[{i}]")
