"""Test support for users: the pytest plugin, the executor contract, the sandbox."""
