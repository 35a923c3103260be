"""A signature compiled, and values checked by it."""
