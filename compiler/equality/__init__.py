"""Whether two computations yield the same.

| file | what it does |
|---|---|
| `canonical.py` | a graph with its bookkeeping done |
| `local.py`, `surroundings.py` | part of a graph under names of its own; what is around it |
| `pattern.py`, `bind.py` | what to look for; which operand is which leaf, which axis which |
| `oracle/` | by values, at points that tell apart |
| `forms.py`, `algebra.py`, `normal.py` | by proof, over the reals |
| `laws.py`, `bounds.py` | laws of instructions; between which numbers a value is |
| `precision.py`, `verdict.py` | what a replacement does to the numbers; how sure it is |
"""
