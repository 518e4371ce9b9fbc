"""The DiLoCo family at the size of two processors: each mode held against its paper's table."""
