"""One file a wire format: bytes in, columns out, and back."""
