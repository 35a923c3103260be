"""Whether a model may be loaded at all."""
