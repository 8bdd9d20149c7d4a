"""Is an answer well-formed, as its task wants it, and true of the patient? Pure."""
