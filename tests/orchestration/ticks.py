"""What a tick said and asked for, and what it finds: versions published, runs under way."""

import dagster as dg

from warehouse.control_tables import versions
from warehouse.leases import Leases
from warehouse.registry import Registry
from warehouse.versions import VersionInfo


def said(result):
    skip = result if isinstance(result, dg.SkipReason) else result.skip_reason
    return skip.skip_message if isinstance(skip, dg.SkipReason) else skip or ""


def requests(result):
    return result.run_requests or [] if isinstance(result, dg.SensorResult) else []


def publish(mill, control, line, n, kind="update", **said):
    """Publish a version; what its artifact holds is no business of a sensor."""
    lease = Leases(control).acquire(line, "test", 60.0)
    scores = {"volatility": {"rls": {"n": n, "loss": 1.0, "recent_loss": 1.0}, "mean": {"n": n, "loss": 2.0}}}
    told = {"metrics": scores, "champions": {"volatility": "rls"}} | said
    info = VersionInfo(kind=kind, watermark=n * 10**9, n_learned=n, digest=f"{line}/{n}", **told)
    return Registry(control, mill.places.models).publish(line, b"model", info, lease)


def first_models(mill, control):
    for line in mill.project.instruments:
        publish(mill, control, line, 1, "initial")


def age(control, number, line, seconds):
    """Make a version look as if it was published so long after the epoch."""
    same = (versions.c.number == number) & (versions.c.line == line)
    control.write(lambda c: c.execute(versions.update().where(same).values(created_at=seconds)))


def bare_job(name, *keys):
    """Return a job of this name, for a run that is only looked at."""

    @dg.multi_asset(specs=[dg.AssetSpec(key) for key in keys or [dg.AssetKey("nothing")]], can_subset=True)
    def nothing():
        return None

    job = dg.define_asset_job(name, selection="*")
    return dg.Definitions(assets=[nothing], jobs=[job]).resolve_job_def(name)
