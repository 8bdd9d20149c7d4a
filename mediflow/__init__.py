"""Synthetic clinical instructions: simulate, generate, judge, curate, pair."""
