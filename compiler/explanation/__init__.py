"""What covers what, and why nothing else does.

| file | what it does |
|---|---|
| `explain.py` | all of it as plain data, for reports |
| `misses.py`, `reasons.py` | what an instruction lacked; in words |
"""
