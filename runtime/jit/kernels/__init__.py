"""One instruction as native code.

| file | what it does |
|---|---|
| `kernel.py` | what is computed first, what is kept, the loops around |
| `passes.py` | tasks: blocks of rows, rows, passes over a row |
| `written.py` | kernels that authors wrote: flat arrays in, results out |
"""
