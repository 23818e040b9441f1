"""Tools of this repository, not part of the package: run them from its root."""
