"""The tables: each file defines one as `SUITE`; suites/catalogue.py lists them."""
