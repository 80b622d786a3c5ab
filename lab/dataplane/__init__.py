"""Data planes under test: networks of their own, compiled cores, worlds of packets."""
