"""The laboratory: daemons, NATs, hosts, servers and clients for tests, benchmarks and examples."""
