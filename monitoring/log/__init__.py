"""The prediction log, read: joined, tailed, compacted."""
