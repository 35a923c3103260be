"""The prediction log's format: written by servers, read by whoever judges."""
