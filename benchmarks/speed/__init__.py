"""How fast, against what: CPU-time ratios measured in one run."""
