"""The views of a file, apart from tests/sqlite: where mutants are tried there are no benchmarks and no pages."""

from tests.sqlite.conftest import bench, path

__all__ = ["bench", "path"]
