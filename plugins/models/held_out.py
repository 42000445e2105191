"""A text that no shipped model has seen: what perplexity is measured on."""

HELD_OUT = '''\
"""Read and write simple tables of numbers, one row on each line."""

import io
import os


class TableError(ValueError):
    """Raised if a line of a table cannot be read."""


class Table:
    """A list of rows, all of the same length."""

    def __init__(self, rows=()):
        self.rows = [list(row) for row in rows]

    def __len__(self):
        return len(self.rows)

    def add(self, row):
        if self.rows and len(row) != len(self.rows[0]):
            raise TableError("expected %d columns, got %d"
                             % (len(self.rows[0]), len(row)))
        self.rows.append(list(row))

    @classmethod
    def read(cls, path, sep=","):
        table = cls()
        with open(path, encoding="utf-8") as file:
            for line in file:
                table.add([float(part) for part in line.split(sep)])
        return table
'''
