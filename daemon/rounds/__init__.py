"""Carrying out rounds: the outer state, the driver of the round machine, and catching up with the swarm."""
