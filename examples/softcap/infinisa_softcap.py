"""An instruction for attention with soft-capped logits (Gemma 2, arXiv 2408.00118)."""

from infinisa import exp, hookimpl, instruction, max, sum, tanh


@instruction(unit="vector", cycles="m * n / lanes + 12")
def softcap_softmax(x: "m n", cap=50.0):
    """Logits squashed to ±cap, then a softmax over n."""
    logits = cap * tanh(x / cap)
    weights = exp(logits - max(logits, "n"))
    return weights / sum(weights, "n")


@hookimpl
def infinisa_instructions():
    return [softcap_softmax]
