"""What the app promises, in machine-readable form."""
