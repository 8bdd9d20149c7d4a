"""CLUE+: score clinical language models."""
