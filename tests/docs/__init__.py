"""The documentation is true: its blocks run, its examples pass the conformance suites, its links lead somewhere."""
