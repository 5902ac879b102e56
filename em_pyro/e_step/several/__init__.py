"""Several sites as one unit: one function, alike in layout, or side by side."""
