"""What a registered model version is."""
