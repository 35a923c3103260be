"""What a release came to, for people."""
