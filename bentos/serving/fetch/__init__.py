"""Files of model versions, brought from a registry and kept."""
