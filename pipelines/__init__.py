"""Nipype workflows over the functions of ``h2lo_bids``."""
