"""The embedded stack: the parts a release needs, as supervised child processes."""
