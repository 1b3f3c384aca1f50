"""ClickHouse: its client, its migrations."""
