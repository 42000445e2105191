"""Side-by-side measurements; each file that does not start with _ prints JSON with --json FILE."""
