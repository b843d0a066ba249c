"""What is kept of a search, computed from its journal: traces on disk, training rows, metrics."""
