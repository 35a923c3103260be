"""What was seen of a release, as plain values."""
