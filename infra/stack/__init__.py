"""The local stack: every server that is not given, kept alive by one process per folder."""
