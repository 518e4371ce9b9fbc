"""Modes of synchronisation: the pure choices that make one (which fragment is due, what is merged how)."""
