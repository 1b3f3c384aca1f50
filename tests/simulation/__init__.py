"""Deterministic simulation: the real sink against a model of broker and ledger, by seed."""
