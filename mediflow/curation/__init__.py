"""From generated rows to a data set: what is dropped and why, the order, the files that describe it."""
