"""Sentences: one file per flow, tasks that call the rooms, and the console script."""
