"""The receiver: webhooks, labels and reports over HTTP."""
