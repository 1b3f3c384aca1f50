"""Stage 2: takes events into the ledger, closes hours, proves completeness."""
