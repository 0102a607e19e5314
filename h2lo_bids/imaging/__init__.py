"""Conforming, brain extraction, normalisation and registration as plain functions."""
