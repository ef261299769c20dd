"""Services, recorded: an asset is a deployment, and materializing it redeploys the service and waits for its health."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from assets.models import INITIAL
from assets.resources import Deployer, Mill, Service
from domain.health import Beat

DEADLINE_S = 60.0
"""From the start of a service to its word that it is ready: imports, a model, a topic to catch up, on a busy laptop."""

REASON = "tidemill/reason"
"""Run tag: why services are redeployed, ``service: reason`` joined by ``; ``."""

TENDED = """Materializing redeploys it with today's configuration and code. A sensor does so when it is missing, died,
or no longer makes progress."""

_POLL_S = 0.1
_TAIL = 15


def key_of(name: str) -> dg.AssetKey:
    """Return the asset of a service."""
    return dg.AssetKey(["services", name])


@dataclass(frozen=True)
class Role:
    """A service's place in the flow: whose records it reads, what it is built with, what it does."""

    reads: tuple[dg.AssetKey, ...]
    kinds: set[str]
    text: str


FLOW = {
    "ingest": Role(
        (INITIAL,),
        {"kafka"},
        """Brings the market in: trades (or candles) become topic `trades` (`bars`), each event once and in order. It
begins at the seam, where the first model's history ends.""",
    ),
    "featurizer": Role(
        (key_of("ingest"),),
        {"kafka"},
        """Turns trades into bars, bars into vectors (topic `features`), and one horizon later the same vectors
with their answers (topic `features_with_target`): by the very steps that filled `bars`, `features` and `examples`.""",
    ),
    "trainer": Role(
        (INITIAL, key_of("featurizer")),
        {"kafka", "river"},
        """Learns every example as its answer becomes known, scores the prediction made when it was asked, and publishes
versions: model, offsets and watermark as one value. Restarted, it goes on exactly where its newest one stands.""",
    ),
    "predictor": Role(
        (key_of("featurizer"), key_of("trainer")),
        {"kafka"},
        """Answers every vector with the newest version (topic `predictions`), swapping models between two vectors, and
serves the answers over HTTP, each with version, model age and number of examples learned.""",
    ),
    "lander": Role(
        (key_of("featurizer"), key_of("predictor")),
        {"kafka", "duckdb"},
        """Lands bars, vectors, examples and predictions in the lake: rows and offset in one transaction, each once.""",
    ),
}


def services_asset() -> dg.AssetsDefinition:
    """Return the services as one step that can deploy any of them: they start side by side, as processes do."""
    specs = [
        dg.AssetSpec(
            key_of(name),
            deps=[*role.reads],
            group_name="services",
            kinds=role.kinds,
            description=f"{role.text}\n\n{TENDED}",
            skippable=True,
        )
        for name, role in FLOW.items()
    ]

    @dg.multi_asset(name="services", specs=specs, can_subset=True)
    def services(
        context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill], deployer: dg.ResourceParam[Deployer]
    ) -> Iterator[dg.MaterializeResult[None]]:
        names = [name for name in FLOW if key_of(name) in context.selected_asset_keys]
        reasons = context.run.tags.get(REASON, "")
        began = time.monotonic()
        for name in names:
            context.log.info("redeploying %s: %s", name, _reason(name, reasons))
            deployer.redeploy(name)
        faults: dict[str, str] = {}
        healthy: dict[str, dg.MaterializeResult[None]] = {}
        for name, service, took, fault in _settled(names, mill, deployer, began):
            if fault:
                context.log.error("%s %s", name, fault)
                faults[name] = fault
            else:
                context.log.info("%s is healthy after %.1f s", name, took)
                healthy[name] = _result(name, service, took, _reason(name, reasons))
        yield from (healthy[name] for name in names if name in healthy)  # Dagster wants them in the flow's order
        if faults:
            raise dg.Failure(
                "; ".join(f"{name} {fault}" for name, fault in faults.items()),
                metadata={name: dg.MetadataValue.md(_block(deployer.tail(name, _TAIL))) for name in faults},
                allow_retries=False,
            )

    return services


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


def _settled(
    names: Sequence[str], mill: Mill, deployer: Deployer, began: float
) -> Iterator[tuple[str, Service, float, str]]:
    """Yield each service as soon as it is healthy or will not be: how it is, after how long, and what is wrong."""
    from warehouse.heartbeats import Heartbeats

    waiting = list(names)
    with mill.control() as control:
        while waiting:
            beats = {(beat.service, beat.pid): beat for beat in Heartbeats(control).beats()}
            for name in waiting.copy():
                service, took = deployer.look(name), time.monotonic() - began
                healthy = _healthy(service, beats.get((name, service.pid or 0)))
                fault = "" if healthy else _fault(service, took)
                if healthy or fault:
                    waiting.remove(name)
                    yield name, service, took, fault
            time.sleep(_POLL_S)


def _healthy(service: Service, beat: Beat | None) -> bool:
    if service.phase == "done":
        return True
    return service.phase == "running" and beat is not None and beat.phase == "running" and beat.ready


def _fault(service: Service, took: float) -> str:
    """Say why waiting is over, or nothing."""
    if service.phase in {"failed", "crash_loop", "lost", "orphan", "stopped"}:
        return f"ended: {service.phase}, {service.why}"
    return f"is not ready after {took:.0f} s" if took > DEADLINE_S else ""


def _reason(name: str, reasons: str) -> str:
    for one in reasons.split("; "):
        if one.startswith(f"{name}: "):
            return one.removeprefix(f"{name}: ")
    return reasons or "asked for by hand"


def _result(name: str, service: Service, took: float, reason: str) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        asset_key=key_of(name),
        # Redeployed with the same configuration and code it is the same, and nothing behind it is out of date.
        data_version=dg.DataVersion(f"{service.config} {service.code}"),
        metadata={
            "reason": reason,
            "command": dg.MetadataValue.md(_block([service.command])),
            "pid": service.pid or 0,
            "generation": service.generation,
            "config": service.config,
            "code": service.code,
            "restarts": service.restarts,
            "seconds_to_healthy": round(took, 2),
        },
    )


def _block(text: list[str]) -> str:
    return "```\n" + "\n".join(text) + "\n```"
