"""The program that code is written for: fewer, larger issues.

| file | what it does |
|---|---|
| `untiled.py`, `fission.py` | loops undone; a loop around several issues as one around each |
| `fused.py` | a contraction and what follows it number by number, as one instruction |
| `orders.py` | in which order the dimensions of kept tensors lie |
| `shares.py` | what threads divide |
"""
