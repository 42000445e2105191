"""Models that nobody here wrote, as ONNX files: small configurations of `transformers` and `torch`.

    python -m benchmarks._export FOLDER TITLE...

Two layers, small widths, random weights and biases, fixed shapes. What a file holds is what the
exporter makes of the library's own code; nothing of it is edited.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infinisa.isa.errors import InfinisaError

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "onnxscript", "onnx")

BATCH, TOKENS, WORDS, WIDTH = 2, 16, 99, 48

Call = Callable[..., "torch.Tensor"]
Made = tuple["torch.nn.Module", Call, tuple["torch.Tensor", ...]]
"""A module, how it is called, and what with."""


@dataclass(frozen=True)
class Export:
    """One file: a model of `MODELS` in one opset, written by one exporter.

    exporter   dynamo, or script (torch's older one)
    attention  what transformers computes attention with: eager or sdpa
    """

    model: str
    opset: int
    exporter: str = "dynamo"
    attention: str = "eager"
    dtype: str = "f32"

    @property
    def title(self) -> str:
        return f"{self.model}-{self.opset}-{self.exporter}-{self.attention}-{self.dtype}"

    @staticmethod
    def of(title: str) -> Export:
        model, opset, exporter, attention, dtype = title.split("-")
        return Export(model, int(opset), exporter, attention, dtype)


# ---------------------------------------------------------------- models

MODELS: dict[str, Callable[[str], Made]] = {}


def model(function: Callable[[str], Made]) -> Callable[[str], Made]:
    MODELS[function.__name__] = function
    return function


def tokens(*shape: int) -> torch.Tensor:
    import torch

    return torch.randint(3, WORDS, shape or (BATCH, TOKENS))


def noise(*shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape)


def logits(module: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(ids, use_cache=False).logits
    return found


def hidden(module: Any, *inputs: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(*inputs).last_hidden_state
    return found


def plain(module: Any, *inputs: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(*inputs)
    return found


TRANSFORMER = {
    "num_hidden_layers": 2,
    "hidden_size": WIDTH,
    "intermediate_size": 80,
    "num_attention_heads": 4,
}
TEXT = TRANSFORMER | {"vocab_size": WORDS, "max_position_embeddings": 40}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 12}


@model
def gpt2(attention: str) -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=WIDTH, n_head=4, vocab_size=WORDS, n_positions=40,
                        attn_implementation=attention)  # fmt: skip
    return GPT2LMHeadModel(config), logits, (tokens(),)


@model
def llama(attention: str) -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**GROUPED, attn_implementation=attention)
    return LlamaForCausalLM(config), logits, (tokens(),)


@model
def qwen3(attention: str) -> Made:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**GROUPED, attn_implementation=attention)
    return Qwen3ForCausalLM(config), logits, (tokens(),)


@model
def gemma2(attention: str) -> Made:
    """Every other layer sees 8 tokens only."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**GROUPED, query_pre_attn_scalar=12, sliding_window=8,
                          attn_implementation=attention)  # fmt: skip
    return Gemma2ForCausalLM(config), logits, (tokens(),)


@model
def phi(attention: str) -> Made:
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(**TEXT, partial_rotary_factor=0.5, attn_implementation=attention)
    return PhiForCausalLM(config), logits, (tokens(),)


@model
def neox(attention: str) -> Made:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(**TEXT, rotary_pct=0.5, attn_implementation=attention)
    return GPTNeoXForCausalLM(config), logits, (tokens(),)


@model
def t5(attention: str) -> Made:
    """Encoder and decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(num_layers=2, d_model=WIDTH, d_kv=12, d_ff=80, num_heads=4, vocab_size=WORDS,
                      attn_implementation=attention)  # fmt: skip

    def call(module: Any, ids: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(ids, decoder_input_ids=before, use_cache=False).logits
        return found

    return T5ForConditionalGeneration(config), call, (tokens(), tokens(BATCH, 12))


@model
def bert(attention: str) -> Made:
    """The second text is shorter: its last tokens are masked."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(**TEXT, attn_implementation=attention)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[1, 11:] = 0
    return BertModel(config), hidden, (tokens(), mask)


@model
def vit(attention: str) -> Made:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**TRANSFORMER, image_size=16, patch_size=4, attn_implementation=attention)
    return ViTModel(config), hidden, (noise(BATCH, 3, 16, 16),)


@model
def clip(attention: str) -> Made:
    """Text and image, and how alike they are."""
    from transformers import CLIPConfig, CLIPModel

    text = TEXT | {"eos_token_id": WORDS - 1}
    image = TRANSFORMER | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config=text,
        vision_config=image,
        projection_dim=24,
        attn_implementation=attention,
    )
    ids = tokens()
    ids[:, -3] = WORDS - 1

    def call(module: Any, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(input_ids=ids, pixel_values=pixels).logits_per_image
        return found

    return CLIPModel(config), call, (ids, noise(BATCH, 3, 32, 32))


@model
def swin(attention: str) -> Made:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 4],
                        window_size=4, attn_implementation=attention)  # fmt: skip
    return SwinModel(config), hidden, (noise(BATCH, 3, 32, 32),)


@model
def mamba(attention: str) -> Made:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(num_hidden_layers=2, hidden_size=24, state_size=4, intermediate_size=48,
                         vocab_size=WORDS)  # fmt: skip
    return MambaForCausalLM(config), logits, (tokens(BATCH, 4),)


@model
def encoder(attention: str) -> Made:
    """PyTorch's own layers; a token sees those before it."""
    import torch
    from torch import nn

    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which no exporter knows
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 80, 0.0, "gelu", batch_first=True)
    seen = nn.Transformer.generate_square_subsequent_mask(TOKENS)
    given = noise(BATCH, TOKENS, WIDTH)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return module, lambda m, x: m(x, seen, is_causal=True), (given,)


@model
def lstm(attention: str) -> Made:
    """Two layers, from both ends."""
    from torch import nn

    return nn.LSTM(12, 20, 2, batch_first=True, bidirectional=True), first, (noise(BATCH, 6, 12),)


@model
def gru(attention: str) -> Made:
    from torch import nn

    return nn.GRU(12, 20, 2, batch_first=True), first, (noise(BATCH, 6, 12),)


def first(module: Any, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(x)[0]
    return found


@model
def lstmcell(attention: str) -> Made:
    """Steps that the exporter writes out one after the other."""
    from torch import nn

    return nn.LSTMCell(12, 20), steps, (noise(4, BATCH, 12), noise(BATCH, 20), noise(BATCH, 20))


def steps(module: Any, xs: torch.Tensor, before: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    import torch

    found = []
    for x in xs:
        before, cell = module(x, (before, cell))
        found.append(before)
    return torch.stack(found)


@model
def grucell(attention: str) -> Made:
    from torch import nn

    def call(module: Any, xs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        for x in xs:
            before = module(x, before)
        return before

    return nn.GRUCell(12, 20), call, (noise(4, BATCH, 12), noise(BATCH, 20))


@model
def resnet(attention: str) -> Made:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], num_labels=10)

    def call(module: Any, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(pixels).logits
        return found

    return ResNetForImageClassification(config), call, (noise(BATCH, 3, 32, 32),)


@model
def mobilenet(attention: str) -> Made:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.25, image_size=64, num_labels=10)

    def call(module: Any, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(pixels).logits
        return found

    return MobileNetV2ForImageClassification(config), call, (noise(1, 3, 64, 64),)


ATTENTIVE = ("gpt2", "llama", "qwen3", "phi", "neox", "t5", "bert", "vit", "clip", "swin")
"""Models that transformers computes with `sdpa` too."""

SCRIPTED = ("t5", "bert", "vit", "clip", "swin", "mamba", "lstm", "gru", "lstmcell", "grucell",
            "resnet", "mobilenet")  # fmt: skip
"""Models that torch's older exporter can write."""

HALF = ("gpt2", "llama", "bert", "resnet")

EXPORTS = (
    *(Export(name, 18) for name in MODELS),
    *(
        Export(name, opset, attention="sdpa" if name in ATTENTIVE else "eager")
        for opset in (20, 23)
        for name in MODELS
    ),
    *(Export(name, 18, "script") for name in SCRIPTED),
    *(Export(name, 18, dtype="f16") for name in HALF),
)

QUICK = (
    *EXPORTS[: len(MODELS)],
    Export("gpt2", 20, attention="sdpa"),
    Export("bert", 23, attention="sdpa"),
)


# ---------------------------------------------------------------- exporting


def randomise(module: torch.nn.Module) -> None:
    """Every parameter random, at a scale that keeps values near 1: a fresh model's norms are 1,
    its biases 0, and its other weights so small that every softmax is even."""
    import torch

    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() < 2:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.normal_(0.0, weight[0].numel() ** -0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)


def write(export: Export, folder: Path) -> None:
    """FOLDER/TITLE.onnx and FOLDER/TITLE.npz, the inputs by name."""
    import numpy as np
    import onnx
    import torch

    torch.manual_seed(0)
    module, call, inputs = MODELS[export.model](export.attention)
    randomise(module)
    if export.dtype == "f16":
        module = module.half()
        inputs = tuple(x.half() if x.is_floating_point() else x for x in inputs)

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = module

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return call(self.inside, *given)

    whole = Called().eval()
    path = folder / f"{export.title}.onnx"
    unfinished = path.with_suffix(f".{os.getpid()}")
    how: dict[str, Any] = {"dynamo": False}
    if export.exporter == "dynamo":
        how = {"dynamo": True, "external_data": False, "verbose": False}
    with torch.no_grad():
        torch.onnx.export(whole, inputs, unfinished, opset_version=export.opset, **how)
    names = [value.name for value in onnx.load(unfinished).graph.input]
    arrays = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]  # a stub that forgets names
    unfinished.replace(path)


def exported(exports: Iterable[Export], folder: Path) -> dict[Export, Path]:
    """The files, in a folder inside of this one for these versions of everything. Those that are
    missing are written by another process, so that PyTorch is in none that measures."""
    here = folder / identity()
    here.mkdir(parents=True, exist_ok=True)
    paths = {export: here / f"{export.title}.onnx" for export in exports}
    missing = [export.title for export, path in paths.items() if not path.exists()]
    if missing:
        command = [sys.executable, "-m", "benchmarks._export", str(here), *missing]
        if subprocess.run(command).returncode:
            raise InfinisaError("some models were not exported; the lines above say why")
    return paths


def identity() -> str:
    """What the files depend on, as a name."""
    parts = [Path(__file__).read_text("utf-8")]
    for package in PACKAGES:
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            raise InfinisaError(
                f"package {package!r} is not installed: pip install infinisa[zoo]"
            ) from None
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def main(given: Sequence[str]) -> int:
    """Write what is asked for; what fails is named at the end, and the others are there."""
    folder, *titles = given
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    failed = []
    for title in titles:
        print(f"exporting {title}", file=sys.stderr)
        try:
            write(Export.of(title), Path(folder))
        except Exception as error:  # exporters raise whatever they like
            failed.append(f"{title}: {type(error).__name__}: {str(error)[:300]}")
    if failed:
        print("not exported:", *failed, sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
