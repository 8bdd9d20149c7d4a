"""One module a system: what it needs installed, and how it does the job of a comparison as its user would."""
