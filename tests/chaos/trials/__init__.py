"""Trials of ingest on real servers: processes die, servers go, a model says what must be."""
