"""The commands, one module each, loaded only when chosen."""
