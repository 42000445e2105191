"""Tables and traces that people look at."""
