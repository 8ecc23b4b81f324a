"""Products for tests: the pytest plugin, the executor contract, the sandbox."""
