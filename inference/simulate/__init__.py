"""Events without a GPU: traces and synthetic fleets through a model of a batching engine."""
