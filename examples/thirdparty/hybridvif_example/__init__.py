"""Two executors for hybridvif, as an example for third parties."""
