"""Machines that only tests use."""

from infinisa.isa.machine import Dispatch, Machine, Memory, Unit

CACHE = Machine(
    name="cache",
    clock=3 * 10**9,
    dispatch=Dispatch(window=1, fetch=1, issue=1),
    units=(
        Unit(
            name="matrix",
            kind="matrix",
            dataflow="output",
            attributes={
                "rows": 1,
                "columns": 32,
                "depth": 1024,
                "issue_rows": 256,
                "issue_columns": 512,
                "skew": 0,
                "overhead": 50,
            },
        ),
        Unit(name="vector", kind="vector", attributes={"lanes": 16, "overhead": 50}),
        Unit(name="scalar", kind="scalar", attributes={"latency": 1}),
        Unit(name="text", kind="text", attributes={"latency": 1}),
    ),
    memories=(
        Memory(name="cache", size=1 << 20, managed="hardware"),
        Memory(
            name="dram",
            size=16 << 30,
            bandwidth=20 * 10**9,
            latency=300,
            managed="none",
            shared=True,
        ),
    ),
)
"""What `infinisa.runtime.host` makes of a processor, but the same everywhere."""
