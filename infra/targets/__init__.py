"""Targets run versions."""
