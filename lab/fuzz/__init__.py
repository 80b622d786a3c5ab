"""The fuzzers and their seeds."""
