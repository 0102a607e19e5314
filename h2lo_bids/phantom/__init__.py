"""Paired high- and low-field heads from tissue maps and MR physics."""
