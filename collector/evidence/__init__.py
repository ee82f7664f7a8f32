"""Evidence: records in, violations out."""
