"""One module a benchmark: ``rows(scene)`` yields what it measured."""
