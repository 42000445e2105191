"""Sums of products.

| file | what it does |
|---|---|
| `roles.py`, `contraction.py` | axes by what they do; which kernel serves |
| `padding.py` | windows over a border, copied once |
| `winograd.py`, `transforms.py` | windows of three by fewer multiplications; its matrices |
| `packing.py`, `weights.py`, `panels.py` | panels of X; weights kept in them; loops for caches |
| `microkernels.py` | the kernels |
| `quantised.py`, `integers.py` | weights in fewer bits; products of integers |
| `finish.py` | what becomes of sums number by number, tile by tile |
"""
