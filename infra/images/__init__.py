"""Images: a sealed bento as an OCI image, built once, named by everything that determines it."""
