"""Benchmarks as the published protocol asks and scores them, bug for bug: see docs/protocols.md."""
