"""New instructions that a model would gain from.

| file | what it does |
|---|---|
| `discover.py` | which of them pay, in order |
| `clusters.py` | calls that one instruction could do |
| `propose.py`, `source.py` | such an instruction; as Python |
"""
