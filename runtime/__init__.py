"""From a program to values, cycles and reports."""
