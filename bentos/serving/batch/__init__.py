"""Batch scoring: a file of rows in, a file of answers out, with the runner that answers online."""
