"""Batch scoring: a file of rows in, a file or a folder of answers out, with the runner that answers online."""
