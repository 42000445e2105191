#!/usr/bin/env python3
"""Write the golden record of the shipped language model.

The record holds what a correct implementation must compute from the folder that
train_default_model.py wrote: token ids of a prompt, the first logits that follow it, and the greedy
continuation. The forward pass below shares no code with the training script, recomputes the whole
sequence at each token (there is no key/value cache), works in float32 from the bfloat16 weights,
and spells out the attention as plain matrix products.

Needs: torch, tokenizers, safetensors. Example:

    python tools/make_golden.py --model plugins/models/python_lm --out golden.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

READ_LINES = 'def read_lines(path):\n    """Return the lines of a text file."""\n'


class PlainLlama:
    """A Llama forward pass without a cache, straight from the stored tensors."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        stored = load_file(folder / "model.safetensors")
        self.weights = {name: tensor.float() for name, tensor in stored.items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Divide each row by its root mean square and multiply by the gain."""
        mean_square = (x * x).sum(dim=-1, keepdim=True) / x.shape[-1]
        return x / torch.sqrt(mean_square + self.config["rms_norm_eps"]) * self.weights[name]

    def rotary(self, x: Tensor) -> Tensor:
        """Rotate the pairs (i, i + head_dim / 2) of [time, head_dim] by the positions."""
        length, size = x.shape
        half = size // 2
        exponent = -torch.arange(half, dtype=torch.float64) * 2 / size
        frequency = torch.tensor(self.config["rope_theta"], dtype=torch.float64) ** exponent
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency[None, :]
        cos, sin = torch.cos(angle).float(), torch.sin(angle).float()
        first, second = x[:, :half], x[:, half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=1)

    def attention(self, x: Tensor, prefix: str) -> Tensor:
        """Return the causal attention of one layer over [time, hidden], head by head."""
        config, length = self.config, x.shape[0]
        size, heads = config["head_dim"], config["num_attention_heads"]
        group = heads // config["num_key_value_heads"]
        query, key, value = (x @ self.weights[f"{prefix}.{name}_proj.weight"].T for name in "qkv")
        future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        mixed = []
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            shared = slice(head // group * size, (head // group + 1) * size)
            scores = self.rotary(query[:, mine]) @ self.rotary(key[:, shared]).T / size**0.5
            scores = scores.masked_fill(future, float("-inf"))
            mixed.append(torch.softmax(scores, dim=-1) @ value[:, shared])
        return torch.cat(mixed, dim=1) @ self.weights[f"{prefix}.o_proj.weight"].T

    def feed_forward(self, x: Tensor, prefix: str) -> Tensor:
        """Return the SwiGLU block of one layer over [time, hidden]."""
        gate = x @ self.weights[f"{prefix}.gate_proj.weight"].T
        up = x @ self.weights[f"{prefix}.up_proj.weight"].T
        return (gate * torch.sigmoid(gate) * up) @ self.weights[f"{prefix}.down_proj.weight"].T

    def logits(self, ids: list[int]) -> Tensor:
        """Return the logits that follow the last of the tokens."""
        embedding = self.weights["model.embed_tokens.weight"]
        x = embedding[torch.tensor(ids)]
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            normed = self.norm(x, f"{layer}.input_layernorm.weight")
            x = x + self.attention(normed, f"{layer}.self_attn")
            normed = self.norm(x, f"{layer}.post_attention_layernorm.weight")
            x = x + self.feed_forward(normed, f"{layer}.mlp")
        return embedding @ self.norm(x, "model.norm.weight")[-1]


def record(model: PlainLlama, tokenizer: Tokenizer, prompt: str, count: int) -> dict[str, Any]:
    """Return the golden record of one prompt."""
    prompt_ids = tokenizer.encode(prompt).ids
    first = model.logits(prompt_ids)
    ids, margins = list(prompt_ids), []
    for _ in range(count):
        logits = model.logits(ids)
        best = torch.topk(logits, 2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    continuation = ids[len(prompt_ids) :]
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "first_logits": [float(value) for value in first[:8]],
        "continuation_ids": continuation,
        "continuation": tokenizer.decode(continuation, skip_special_tokens=False),
        "smallest_margin": min(margins),
        "smallest_margin_at": margins.index(min(margins)),
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write the golden record of the shipped language model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("plugins/models/python_lm"), help="folder to read")
    add("--out", type=Path, default=Path("golden.json"), help="file to write")
    add("--tokens", type=int, default=64, help="length of the continuation")
    add("--prompt", type=Path, action="append", default=[], help="text file of one more prompt")
    return parser.parse_args()


def main() -> None:
    """Compute the records and write them."""
    arguments = parse_arguments()
    model = PlainLlama(arguments.model)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    prompts = [READ_LINES, *(path.read_text(encoding="utf-8") for path in arguments.prompt)]
    records = [record(model, tokenizer, text, arguments.tokens) for text in prompts]
    golden = {
        "about": (
            "Greedy continuation in float32 from the bfloat16 weights, without a key/value cache. "
            "first_logits are logits 0 to 7 at the last position of the prompt; smallest_margin is "
            "the least distance of the best logit to the second best along the continuation."
        ),
        "records": records,
    }
    arguments.out.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    for entry in records:
        print(f"{len(entry['prompt_ids'])} tokens, margin {entry['smallest_margin']:.4f}")
        print(entry["prompt"] + "|" + entry["continuation"])


if __name__ == "__main__":
    main()
