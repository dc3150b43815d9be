"""A complete container runtime in process, for tests, scale runs and machines without an engine."""
