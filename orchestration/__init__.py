"""Things tended: Dagster definitions, sensors, the supervisor and the tidemill command."""
