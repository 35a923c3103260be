"""Versions as containers of a Docker engine."""
