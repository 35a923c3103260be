"""Where a version runs and who gets the traffic."""
