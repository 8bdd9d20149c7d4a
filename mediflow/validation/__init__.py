"""Validation sets: topics, what a teacher writes and its checks, a reviewer, and the choice of the most different."""
