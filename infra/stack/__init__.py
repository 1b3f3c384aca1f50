"""The local stack: every server as a plain process, from its URL, or from Docker Compose."""
