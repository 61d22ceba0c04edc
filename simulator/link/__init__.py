"""A chip somewhere else: the protocol, what serves it, and what talks to it."""
