"""The virtual trial: labels carried to every output, lesions, observers and study figures."""
