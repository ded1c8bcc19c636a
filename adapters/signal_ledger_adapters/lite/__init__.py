"""The embedded engine: Oban's workers without a server."""
