"""The reference backend: containers through the Docker Engine API."""
