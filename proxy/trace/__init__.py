"""What is kept of a search, all folded from its journal: traces on disk, training rows, metrics."""
