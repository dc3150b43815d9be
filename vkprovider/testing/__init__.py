"""The kit for authors of providers: builders, fake clock, fixtures, conformance checks."""
