"""What was decided, kept and chained."""
