"""LLVM's code: its language as text, the processor it is for, what numbers become.

| file | what it does |
|---|---|
| `processor.py` | what code may use: kinds of processors, this one |
| `ir.py`, `alike.py` | text: values with a type, functions, loops; functions that are one |
| `functions.py`, `tables.py` | every scalar function, element types; tables in registers |
| `half.py` | conversions of f16 where the processor has none |
"""
