"""What is released: registry, runner, service and build."""
