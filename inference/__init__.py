"""Stage 1: meters the inference tier and emits its events."""
