"""A server that follows an alias of the registry."""
