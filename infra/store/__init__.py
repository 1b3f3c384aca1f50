"""The billing store: what was promised and charged. SQLite by default, PostgreSQL by URL."""
