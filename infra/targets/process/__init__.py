"""Versions as kept processes of this machine."""
