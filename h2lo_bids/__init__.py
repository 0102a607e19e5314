"""H2LO-BIDS: low-field MRI synthesized from high-field MRI, as a BIDS App."""

__version__ = "0.1.0"
