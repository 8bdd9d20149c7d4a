"""One module a system: what it needs installed, and how it gets N records from the mock server as its user would."""
