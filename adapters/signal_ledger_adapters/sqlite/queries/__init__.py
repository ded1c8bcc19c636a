"""The statements of the hot paths, one a file."""
