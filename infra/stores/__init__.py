"""Where files are kept that outlive a release: a folder, or a bucket of an S3 API."""
