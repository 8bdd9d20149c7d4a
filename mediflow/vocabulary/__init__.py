"""What clinical texts may not differ in: drugs, numbers with units, sides, negations; nothing of the simulation."""
