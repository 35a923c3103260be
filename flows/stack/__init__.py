"""The stack that the flows run in."""
