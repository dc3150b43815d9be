"""A narrow, typed client of the API server."""
