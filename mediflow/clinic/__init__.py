"""The simulated clinic: patients with a known state, their documents, and the known answer of every task."""
