"""Services, recorded: an asset is a deployment, and materializing it redeploys the service and waits for its health."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.models import INITIAL
from assets.resources import Deployer, Mill
from assets.rollout import Rollout, Settled, beats_of
from domain.health import ready
from domain.services import FLOW, INITIAL_MODEL

REASON = "tidemill/reason"
"""Run tag: why services are redeployed, ``service: reason`` joined by ``; ``."""

DETECTED, REQUESTED = "tidemill/detected_at", "tidemill/requested_at"
"""Run tags, unix seconds: when the sensor first saw it (JSON, by service), and when it asked for the run."""

TENDED = "tended"
"""The check of each service: red once the sensor has given it up, until it is seen healthy."""

DESCRIPTION = """Materializing redeploys it with today's configuration and code: one that runs only after they have been
rehearsed, and one after the other. A sensor does so when it is missing, died, or no longer makes progress."""

CHECK = """Red when the `health` sensor has given the service up, or when today's code or configuration failed its
rehearsal and the old process goes on; the description says why. Green when it is seen healthy. The sensor records each
change; executing it looks once, now."""


def key_of(name: str) -> dg.AssetKey:
    """Return the asset of a service."""
    return dg.AssetKey(["services", name])


def refusal_tag(name: str) -> str:
    """Return the run tag that holds the fingerprint with which the rehearsal of a service failed."""
    return f"tidemill/refused.{name}"


def services_asset() -> dg.AssetsDefinition:
    """Return the services as one step that can deploy any of them; see ``assets.rollout``."""
    specs = [
        dg.AssetSpec(
            key_of(name),
            deps=[INITIAL if other == INITIAL_MODEL else key_of(other) for other in role.follows],
            group_name="services",
            kinds=set(role.kinds),
            description=f"{role.text}\n\n{DESCRIPTION}",
            skippable=True,
        )
        for name, role in FLOW.items()
    ]

    @dg.multi_asset(name="services", specs=specs, can_subset=True)
    def services(
        context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill], deployer: dg.ResourceParam[Deployer]
    ) -> Iterator[dg.MaterializeResult[None]]:
        names = [name for name in FLOW if key_of(name) in context.selected_asset_keys]

        def refuse(name: str, cure: str) -> None:
            context.instance.add_run_tags(context.run.run_id, {refusal_tag(name): cure})

        faults: dict[str, Settled] = {}
        healthy: dict[str, dg.MaterializeResult[None]] = {}
        for settled in Rollout(mill, deployer, context.log, refuse).settle(names):
            if settled.fault:
                context.log.error("%s %s", settled.name, settled.fault)
                faults[settled.name] = settled
            else:
                context.log.info("%s is healthy after %.1f s", settled.name, settled.took)
                healthy[settled.name] = _result(settled, context.run.tags)
        yield from (healthy[name] for name in names if name in healthy)  # Dagster wants them in the flow's order
        if faults:
            raise dg.Failure(
                "; ".join(f"{name} {settled.fault}" for name, settled in faults.items()),
                metadata={
                    name: dg.MetadataValue.md(_block(s.last_words)) for name, s in faults.items() if s.last_words
                },
                allow_retries=False,
            )

    return services


def services_checks() -> dg.AssetChecksDefinition:
    """Return the check of every service; see ``CHECK``."""
    specs = [dg.AssetCheckSpec(TENDED, asset=key_of(name), description=CHECK) for name in FLOW]

    @dg.multi_asset_check(name="services_tended", specs=specs, can_subset=True)
    def services_tended(
        context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill], deployer: dg.ResourceParam[Deployer]
    ) -> Iterator[dg.AssetCheckResult]:
        beats = beats_of(mill)
        for name in FLOW:
            if dg.AssetCheckKey(key_of(name), TENDED) in context.selected_asset_check_keys:
                service = deployer.look(name)
                beat = beats.get((name, service.pid or 0))
                words = "" if service.phase == "done" or ready(beat, time.time()) else f"{service.phase}, {service.why}"
                yield dg.AssetCheckResult(**_verdict(name, words))

    return services_tended


def tended_event(name: str, alarm: str) -> dg.AssetCheckEvaluation:
    """Return the event that turns a service's check red, saying why, or green when there is nothing to say."""
    return dg.AssetCheckEvaluation(**_verdict(name, alarm))


def observation(name: str, figures: Mapping[str, float]) -> dg.AssetObservation:
    """Return the event that records how a service has fared; its numbers plot."""
    return dg.AssetObservation(key_of(name), metadata=dict(figures))


def predictions_spec() -> dg.AssetSpec:
    """Return the external asset of what is served."""
    return dg.AssetSpec(
        "predictions",
        deps=[key_of("predictor")],
        group_name="services",
        kinds={"kafka"},
        description="What is served: for every vector the three targets one horizon ahead, stamped with model version, "
        "model age and number of examples learned. Topic `predictions`, `GET /predictions` of the predictor, and "
        "table `predictions` of the lake. Nothing materializes it: it flows.",
    )


def _reason(name: str, reasons: str) -> str:
    for one in reasons.split("; "):
        if one.startswith(f"{name}: "):
            return one.removeprefix(f"{name}: ")
    return reasons or "asked for by hand"


def _result(settled: Settled, tags: Mapping[str, str]) -> dg.MaterializeResult[None]:
    service = settled.service
    return dg.MaterializeResult(
        asset_key=key_of(settled.name),
        # Redeployed with the same configuration and code it is the same, and nothing behind it is out of date.
        data_version=dg.DataVersion(f"{service.config} {service.code}"),
        metadata={
            "reason": _reason(settled.name, tags.get(REASON, "")),
            "command": dg.MetadataValue.md(_block([service.command])),
            "pid": service.pid or 0,
            "generation": service.generation,
            "config": service.config,
            "code": service.code,
            "uptime_s": round(settled.at - service.started_at, 2),
            "restarts": service.restarts,
            "seconds_to_healthy": round(settled.took, 2),
            **_since_detection(settled, tags),
        },
    )


def _since_detection(settled: Settled, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return how long the cure took from the first look that saw something wrong; nothing when a person asked."""
    detected = json.loads(tags.get(DETECTED, "{}")).get(settled.name)
    if detected is None:
        return {}
    return {
        "detected_at": dg.MetadataValue.timestamp(detected),
        "seconds_detection_to_request": round(float(tags[REQUESTED]) - detected, 2),
        "seconds_detection_to_start": round(settled.service.started_at - detected, 2),
        "seconds_detection_to_healthy": round(settled.at - detected, 2),
    }


def _verdict(name: str, alarm: str) -> dict[str, Any]:
    return {
        "asset_key": key_of(name),
        "check_name": TENDED,
        "passed": not alarm,
        "description": alarm or "healthy",
    }


def _block(text: Sequence[str]) -> str:
    return "```\n" + "\n".join(text) + "\n```"
