"""What a node keeps in its data dir: layout and lock, checkpoints, rounds, small JSON files."""
