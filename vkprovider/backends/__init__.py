"""Backends that run containers."""
