"""Measured claims, each one command that prints a ratio against a reference."""
