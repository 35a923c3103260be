"""Processes of a model's environment, or of our own, that do one thing and end."""
