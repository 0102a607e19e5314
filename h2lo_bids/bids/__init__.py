"""Finding scans and naming derivatives in BIDS datasets."""
