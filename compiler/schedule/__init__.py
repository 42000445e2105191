"""In which order calls go, in tiles of what size, and where their tensors are.

| file | what it does |
|---|---|
| `nest.py`, `home.py` | loops that calls share; where each tensor lives |
| `cost.py`, `likeness.py`, `tile.py` | predicted time; groups that are alike; the search |
| `place.py`, `emit.py` | addresses; stages of loops over issues |
"""
