"""The command line: it composes the stages and does nothing else."""
