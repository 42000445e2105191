"""Attention weights with soft-capped logits, written by hand, and what it compiles to."""

import numpy as np

import infinisa
from infinisa.compiler.builder import Builder

b = Builder("capped attention")
query, key = b.input("query", "s d", (48, 32)), b.input("key", "t d", (48, 32))
logits = 30.0 * infinisa.tanh(infinisa.dot(query, key, "d") / 30.0)
weights = infinisa.exp(logits - infinisa.max(logits, "t"))
b.graph("main").output("weights", weights / infinisa.sum(weights, "t"))

compiled = infinisa.load(b.model()).compile("edge")
generator = np.random.default_rng(0)
inputs = {name: generator.standard_normal((48, 32), np.float32) for name in ("query", "key")}

print(", ".join(opcode.name for opcode in compiled.program.opcodes))
print(compiled.simulate().cycles, "cycles")
weights = compiled.run(inputs=inputs).outputs["main/weights"]
print("sums of rows:", weights.sum(1)[:4].round(4))
