"""The release policy: what a release must show, one file a part."""
