"""Measurements beside the peers: each module is a command that prints tables; figures are never asserted in tests."""
