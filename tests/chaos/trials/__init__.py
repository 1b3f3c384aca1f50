"""Trials of ingest on real servers: processes die, servers go, and the ledger is held to a model."""
