"""Real models on real data."""
