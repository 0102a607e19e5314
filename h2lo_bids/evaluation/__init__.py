"""Metrics of Table 1 of the paper."""
