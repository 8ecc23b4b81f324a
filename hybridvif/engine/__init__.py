"""The decisions of one call: observe, plan, apply, verify, retry, roll back. Touches the host only through a Host."""
