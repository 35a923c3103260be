"""One file a flavor: artifact folder in, predictor out."""
