"""A lock, and the interpreter that has what it says."""
