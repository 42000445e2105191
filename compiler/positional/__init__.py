"""Tensors whose dimensions are numbered, as model files have them.

| file | what it does |
|---|---|
| `tensor.py`, `recurrence.py` | the tensors and what is done to them; scans over them |
| `axes.py`, `naming.py` | dimensions as runs of atoms; names for all of them, at the end |
| `operator.py` | what a model file may say, in terms of such tensors |
"""
