from infinisa import dot, hookimpl, instruction, sigmoid


@instruction(unit="matrix", tile={"m": "rows", "n": "columns", "k": "depth"})
def gated_matmul(gate: "m n", x: "m k", up: "k n"):
    """The gated half of a Llama feed-forward layer, silu(gate) * (x @ up), in one pass."""
    return gate * sigmoid(gate) * dot(x, up, over="k")


@hookimpl
def infinisa_instructions():
    return [gated_matmul]
