"""Apache Kafka as one node on this machine, from its Maven artifacts: for `make kafka` and for the tests."""
