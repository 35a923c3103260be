"""Exactly what is sealed into a bento, and runs in the model's own environment. It imports nothing else of ours."""
