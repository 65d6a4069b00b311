"""Two folders of results side by side: aligned, compared, shown as text, as a page, as CSV."""
