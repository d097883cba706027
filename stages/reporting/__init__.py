"""What the report stage does: collect results, work out statistics, draw, write pages."""
