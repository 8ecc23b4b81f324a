"""This process's end of the privilege boundary: connect() and Host."""
