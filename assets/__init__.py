"""Things recorded: the Dagster assets, and the batch work behind them."""

import warnings

# Each process that loads the definitions would say so three times into its log; uv.lock pins the release of Dagster.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy` of function `asset` is currently in beta")
