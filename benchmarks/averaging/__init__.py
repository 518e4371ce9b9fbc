"""Atoll's averaging beside that of others, in one run: `python -m benchmarks.averaging`."""
