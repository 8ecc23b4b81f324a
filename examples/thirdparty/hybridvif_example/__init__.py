"""Two executors for hybridvif, as a third party would write them."""
