"""What the stages stand on: settings, clients, migrations, the billing store, the local stack."""
