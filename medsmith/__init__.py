"""medsmith: the floor that every stage stands on. It knows nothing of clinics or benchmarks."""

__version__ = "0.1.0"
