"""From a model to a program.

| here | what lives there |
|---|---|
| `pipeline.py` | the stages in order: the compiler on one page |
| `graph.py`, `builder.py`, `reference.py` | a model; one written by hand; its values, untiled |
| `readers/`, `positional/` | model files; the tensors with numbered dimensions that they speak of |
| `layers.py`, `unfold.py` | of layers that are alike a few; the others again |
| `equality/` | whether two computations yield the same |
| `selection/` | which instruction computes what |
| `calls.py`, `chunk.py` | what selection hands to the schedule; recurrences in chunks |
| `schedule/` | in which order, in tiles of what size, where: the program |
| `explanation/`, `discovery/` | why something was not found; which instructions would pay |
| `gradient.py` | how results change with what they are computed from |
"""
