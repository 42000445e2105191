"""Which instruction computes what.

| file | what it does |
|---|---|
| `cones.py`, `match.py` | parts of a graph; the instructions that compute them |
| `recurrences.py`, `repeats.py` | whole recurrences; what was found once, for all that is alike |
| `choice.py`, `prices.py` | one match for every value that is needed; what resources are worth |
| `draft.py`, `lower.py`, `indices.py` | choices as calls: tensors, views, opcodes |
| `split.py` | reductions over cores |
| `cover.py` | all of that in order |
| `coverage.py`, `uncovered.py` | what covers what; the error where nothing does |
"""
