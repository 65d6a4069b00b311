"""Suites: what is compared, how one cell of it is run, and the command line."""
