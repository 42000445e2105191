"""Files to graphs."""
