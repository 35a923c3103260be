"""Gateways move traffic."""
