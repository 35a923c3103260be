"""One metric a file: evidence and policy in, a metric's verdict out."""
