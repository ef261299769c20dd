"""Things at rest: the DuckLake feature store, the control database and the model registry."""
