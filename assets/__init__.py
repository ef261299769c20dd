"""Things recorded: the Dagster assets, and the batch work behind them."""
