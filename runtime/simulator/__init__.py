"""Cycles of a program."""
