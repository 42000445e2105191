"""A program as native code.

| file | what it does |
|---|---|
| `program.py` | the loop tree: sections, stages that are alike, loops |
| `kernels.py` | the kernels of a program, each for all issues that are alike |
| `calls.py` | issues as calls of kernels, of bodies, of Python |
| `addresses.py`, `plan.py` | where things are; what a session provides |
"""
