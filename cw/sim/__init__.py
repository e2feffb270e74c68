"""The simulator: the scheduler of production in a seeded world, in virtual time."""
