"""Kinds of decisions that more than one stage reads, by the name they have in the log."""

DECLARE_LOSS = "declare_loss"
"""Events are lost for good; closing counts on it, and statements show it."""
