"""Prefect blocks: settings in, ready client out."""
