"""Load, measurements and comparisons. Reaches a backend through its HTTP contract and nothing else."""
