"""Dagster's own home, below Tidemill's."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = Path(__file__).with_name("dagster.yaml")


def prepare_instance(home: Path) -> Path:
    """Write ``dagster.yaml`` into the instance's directory and return that directory, for ``DAGSTER_HOME``.

    Parameters
    ----------
    home : Tidemill's; runs, events and ticks are kept in its folder ``dagster``
    """
    directory = home.absolute() / "dagster"
    directory.mkdir(parents=True, exist_ok=True)
    settings, wanted = directory / "dagster.yaml", TEMPLATE.read_bytes()
    if not settings.exists() or settings.read_bytes() != wanted:
        staged = settings.with_suffix(".new")
        staged.write_bytes(wanted)
        staged.replace(settings)
    return directory
