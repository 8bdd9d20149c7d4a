"""The review page: its index, its journal of decisions, its server."""
