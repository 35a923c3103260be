"""From a model version to a sealed bento."""
