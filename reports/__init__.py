"""Reports: stored records to one table object, and from it the page, LaTeX, CSV and figures."""
