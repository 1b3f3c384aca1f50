"""A stateful stand-in for Stripe's invoicing API, for the local stack and for tests."""
