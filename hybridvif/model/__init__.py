"""The pure model: parts, desired state, steps, plan. No I/O, no clock; imports only itself and the standard library."""
