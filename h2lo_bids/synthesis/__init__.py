"""The engine that evaluates an operator on a volume."""
