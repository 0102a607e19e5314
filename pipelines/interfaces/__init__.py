"""Thin Nipype interfaces: each hands files to one function of ``h2lo_bids``."""
