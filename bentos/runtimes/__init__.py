"""Runtimes: what answers in a model's place where it gives the same answers faster, how that is proven, and what it costs."""
