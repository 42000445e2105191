"""Expressions at positions, and loops over them.

| file | what it does |
|---|---|
| `expression.py` | the value at a position, or at a vector of positions |
| `rows.py` | loops: an expression into memory, folds, updates; which axis the vectors take |
| `identities.py` | formulas by fewer operations |
| `masks.py` | what rows need not see |
| `quotients.py` | divisions of what is summed, done to the sums |
"""
