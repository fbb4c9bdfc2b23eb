"""Model files become graphs: one folder per source format."""
