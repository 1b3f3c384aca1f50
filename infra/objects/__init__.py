"""Objects by name, in a folder or in a cloud's storage: whole or not there, never half."""
