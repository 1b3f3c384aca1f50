"""Kafka: its topics, and where the local broker comes from."""
