"""One context manager per real server; each yields addresses, and stops what it started."""
