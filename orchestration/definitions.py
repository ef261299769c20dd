"""All of Tidemill as Dagster sees it: the entry point that ``workspace.yaml`` names."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from assets.bars import bars_asset
from assets.examples import examples_asset
from assets.features import features_asset
from assets.history_checks import history_checks
from assets.model_checks import model_checks
from assets.models import initial_model_asset
from assets.partitions import days_of, history_of
from assets.performance import performance_asset
from assets.resources import Mill, Service
from assets.services import predictions_spec, services_asset, services_checks
from assets.serving_checks import serving_checks
from assets.versions import version_specs
from domain.config import Places, Project
from domain.errors import TidemillError
from domain.events import NANOS_PER_SECOND
from orchestration.coordinator import refuse_references
from orchestration.deployment import Deployment
from orchestration.health import health_sensor
from orchestration.jobs import jobs
from orchestration.lines import line_jobs
from orchestration.maintenance import maintenance, maintenance_schedule
from orchestration.opening import settled_project
from orchestration.refill import missing_days_sensor
from orchestration.schedules import clock_of, closed_day_schedule, hourly_schedule
from orchestration.sensors import bootstrap_sensor
from orchestration.settings import read_places
from orchestration.versions import versions_sensor


@dataclass(frozen=True)
class LocalDeployer:
    """Deploys services as detached processes of this machine; see ``assets.resources.Deployer``."""

    deployment: Deployment

    def fingerprint(self, name: str) -> Mapping[str, str]:
        """Return digests of what today's service depends on."""
        return self.deployment.fingerprint(name)

    def rehearse(self, name: str) -> str:
        """Try today's service without opening anything."""
        return self.deployment.rehearse(name)

    def redeploy(self, name: str) -> None:
        """Replace the service's process, if any."""
        self.deployment.redeploy(name)

    def look(self, name: str) -> Service:
        """Say how the service is."""
        status, spec = self.deployment.supervisor.status(name), self.deployment.supervisor.spec(name)
        meta = spec["meta"] if spec else {}
        return Service(
            phase=status.phase,
            pid=status.pid,
            generation=status.generation,
            restarts=status.restarts,
            why=": ".join(filter(None, (status.reason, status.last_words))),
            command=shlex.join(spec["argv"]) if spec else "",
            config=meta.get("config", ""),
            code=meta.get("code", ""),
            started_at=(status.started_at or 0) / NANOS_PER_SECOND,
        )

    def tail(self, name: str, n: int) -> list[str]:
        """Return the last lines that the service printed."""
        return self.deployment.supervisor.tail(name, n)


def definitions(places: Places, project: Project) -> dg.Definitions:
    """Return assets, jobs, sensors and schedules of a project."""
    history = history_of(project)
    try:
        clock = clock_of(places)
    except TidemillError:  # the sensors say what is wrong with the database; for that they must load
        clock = 0
    days = days_of(history, clock)
    return dg.Definitions(
        assets=[
            bars_asset(days),
            features_asset(days),
            examples_asset(days),
            initial_model_asset(days, history),
            services_asset(),
            *version_specs(project),
            predictions_spec(),
            performance_asset(),
        ],
        asset_checks=[*history_checks(), *model_checks(project), *serving_checks(), services_checks()],
        jobs=[*jobs(), *line_jobs(), maintenance],
        sensors=[
            bootstrap_sensor(places, history),
            health_sensor(places),
            versions_sensor(places),
            missing_days_sensor(places),
        ],
        schedules=[closed_day_schedule(places, history), hourly_schedule(places), maintenance_schedule],
        resources={"mill": closed(Mill(project, places)), "deployer": LocalDeployer(Deployment(places, project))},
        executor=dg.in_process_executor,
    )


def closed(mill: Mill) -> dg.ResourceDefinition:
    """Return the resource of a run whose form refers to nothing outside it, however the run was launched."""

    def given(context: dg.InitResourceContext) -> Mill:
        refuse_references(context.run.run_config if context.run else {})
        return mill

    return dg.ResourceDefinition(given, config_schema={})


if os.environ.get("DAGSTER_IS_DEV_CLI"):
    logging.getLogger("dagster").warning(
        "dagster dev has no door: any web page that is open on this machine can run jobs. 'tidemill up' has one"
    )
places = read_places()
defs = definitions(places, settled_project(places))
