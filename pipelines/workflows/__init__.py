"""Workflows: what is done to a scan, and in which order."""
