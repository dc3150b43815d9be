"""A Kubernetes API server and scheduler in process, for development, tests and trying out."""
