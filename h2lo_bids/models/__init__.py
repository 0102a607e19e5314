"""The synthesis methods and the bundles that package them."""
