"""This process's end of the privilege boundary: the connection to the daemon and the codec."""
