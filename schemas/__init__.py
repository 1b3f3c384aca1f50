"""Contracts that every stage shares: events, tables, topics, prices, invoices, units, errors."""
