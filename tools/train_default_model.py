#!/usr/bin/env python3
"""Train the small Python-writing language model that InfinISA ships.

The whole recipe is in this one file:

1. gather the source of the Python standard library of the interpreter that runs the script
   (its tests, generated tables and bundled packages left out);
2. train a byte-level BPE tokenizer on the training files;
3. train a Llama-type decoder of about 3.5 million parameters on the tokens;
4. write a Hugging Face folder: config.json, model.safetensors (bfloat16), tokenizer.json,
   tokenizer_config.json and README.md, the model card with the measured losses.

The learning rate follows the share of the budget used up, so a run ends fully annealed whatever
the speed of the machine. The folder is rewritten every few minutes, and Ctrl-C stops the training
early, then evaluates and saves as at a normal end.

The tokenizer and the split of the files depend on the interpreter's standard library and on the
seed only. The weights depend on the number of steps as well, hence on the speed of the machine;
--steps fixes it, up to the rounding of the machine's arithmetic.

Needs: torch, tokenizers, safetensors, numpy. Example, with the settings of the shipped model:

    python tools/train_default_model.py --minutes 48 --out plugins/models/python_lm --compile
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as serialize_tensors
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END_OF_TEXT = "<|endoftext|>"

# Folders that hold tests, demos, bundled or installed packages, and generated texts.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip"}
    | {"pydoc_data", "__pycache__"}
)
# Generated files: the variables of the build, frozen-module samples, and the codec tables.
GENERATED_PREFIXES = ("_sysconfigdata", "__phello__", "__hello__")
GENERATED_MARKS = ("decoding_table", "decoding_map", "codecs.make_identity_dict")

# A prompt ends before a line break: the tokenizer joins the break to the indentation that follows.
SAMPLE_PROMPTS = (
    'def read_lines(path):\n    """Return the lines of a text file."""',
    'class Stack:\n    """A list of items."""\n\n    def __init__(self, items=None):',
    "import os\nimport sys\n\n\ndef main():",
)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the decoder."""

    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 640
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 32
    context: int = 256
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class Recipe:
    """How the training goes."""

    minutes: float
    steps: int | None
    batch: int
    peak_lr: float
    weight_decay: float
    warmup: float
    seed: int
    bf16: bool
    save_minutes: float


@dataclass
class Corpus:
    """The tokens of both splits, and the size in bytes of the text behind them."""

    train: np.ndarray
    valid: np.ndarray
    train_files: int
    valid_files: int
    train_bytes: int
    valid_bytes: int


@dataclass
class Report:
    """What a run measured; the model card is made from it."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    valid_loss: float = math.nan
    bits_per_byte: float = math.nan
    complete: bool = False
    samples: list[tuple[str, str]] = field(default_factory=list)


# ---------------------------------------------------------------------------------------- data


def is_wanted(relative: Path, text: str) -> bool:
    """Tell whether a standard library file is hand-written code worth learning from."""
    if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
        return False
    if relative.name.startswith(GENERATED_PREFIXES):
        return False
    is_table = relative.parts[0] == "encodings" and any(mark in text for mark in GENERATED_MARKS)
    return not is_table and bool(text.strip())


def gather_sources(root: Path) -> list[str]:
    """Return the text of every wanted file under the folder, in the order of their names."""
    texts = []
    for path in sorted(root.rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if is_wanted(path.relative_to(root), text):
            texts.append(text.replace("\r\n", "\n"))
    return texts


def split_files(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Hold out 2 % of the files, drawn with the seed, for validation."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    held_out = set(order[: max(1, round(0.02 * len(texts)))])
    train = [text for index, text in enumerate(texts) if index not in held_out]
    valid = [text for index, text in enumerate(texts) if index in held_out]
    return train, valid


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary; any byte string can be encoded with it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"the text gave only {tokenizer.get_vocab_size()} tokens")
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the one special token."""
    found = tokenizer.token_to_id(END_OF_TEXT)
    if found is None:
        raise SystemExit("the tokenizer lacks its special token")
    return found


def encode_stream(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Encode the files one after the other, an end-of-text token in front of each."""
    end = end_of_text_id(tokenizer)
    stream: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        stream.append(end)
        stream.extend(encoding.ids)
    stream.append(end)
    return np.asarray(stream, dtype=np.int64)


def build_corpus(tokenizer: Tokenizer, train: list[str], valid: list[str]) -> Corpus:
    """Encode both splits."""
    return Corpus(
        train=encode_stream(tokenizer, train),
        valid=encode_stream(tokenizer, valid),
        train_files=len(train),
        valid_files=len(valid),
        train_bytes=sum(len(text.encode()) for text in train),
        valid_bytes=sum(len(text.encode()) for text in valid),
    )


def batches(stream: np.ndarray, batch: int, context: int, seed: int) -> Iterator[Tensor]:
    """Yield [batch, context + 1] windows for ever.

    Each pass cuts the stream at a new random offset and visits the windows in a new order, so
    that every token is seen once a pass, each time with another context.
    """
    generator = np.random.default_rng(seed)
    pending: list[np.ndarray] = []
    while True:
        offset = int(generator.integers(context))
        starts = np.arange(offset, len(stream) - context - 1, context)
        generator.shuffle(starts)
        for start in starts:
            pending.append(stream[start : start + context + 1])
            if len(pending) == batch:
                yield torch.from_numpy(np.stack(pending))
                pending = []


# --------------------------------------------------------------------------------------- model


def rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines [context, head_dim] of the "rotate_half" convention."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequencies = config.rope_theta ** (-half / config.head_dim)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [batch, heads, time, head_dim] by the angles of its positions."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis, in float32 whatever the type of the input."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal self-attention whose key/value heads are shared by groups of query heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend over [batch, time, hidden]."""
        rows, length, _ = x.shape
        split = (rows, length, -1, self.config.head_dim)
        query = rotate(self.q_proj(x).view(split).transpose(1, 2), cos, sin)
        key = rotate(self.k_proj(x).view(split).transpose(1, 2), cos, sin)
        value = self.v_proj(x).view(split).transpose(1, 2)
        group = self.config.num_heads // self.config.num_kv_heads
        key = key.to(value.dtype).repeat_interleave(group, dim=1)
        value = value.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(query.to(value.dtype), key, value, is_causal=True)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return output


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to the last axis."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add what the two halves of the layer compute."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class Decoder(nn.Module):
    """The language model; its parameter names are those of a Hugging Face Llama."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(config)

    def _initialise(self, config: ModelConfig) -> None:
        """Draw small weights; those that write to the residual stream smaller still."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 1 / math.sqrt(2 * config.num_layers) if residual else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits [batch, time, vocab] of the token that follows each position."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def next_token_loss(model: nn.Module, window: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of each token given those before it."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


# ------------------------------------------------------------------------------------ training


def learning_rate(progress: float, recipe: Recipe) -> float:
    """Return the rate at a share of the budget: a linear warm-up, then a cosine to 1 %."""
    if progress < recipe.warmup:
        return recipe.peak_lr * max(progress, 1e-3) / recipe.warmup
    after = min(1.0, (progress - recipe.warmup) / (1 - recipe.warmup))
    return recipe.peak_lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * after)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW that decays the matrices and leaves the gains alone."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() != 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.95), fused=True)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, window: Tensor, lr: float, bf16: bool
) -> float:
    """Take one optimiser step and return the loss of the batch."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
        loss = next_token_loss(model, window)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


class StopFlag:
    """Becomes true at Ctrl-C or a termination request, so that the loop can end cleanly."""

    def __init__(self) -> None:
        self.raised = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: object) -> None:
        """Note the first request; let a second one end the program at once."""
        self.raised = True
        signal.signal(number, signal.SIG_DFL)


def share_used(report: Report, recipe: Recipe) -> float:
    """Return how much of the budget, in steps or else in time, is used up."""
    if recipe.steps is not None:
        return report.steps / recipe.steps
    return report.seconds / (60 * recipe.minutes)


def train(
    model: nn.Module,
    stream: np.ndarray,
    config: ModelConfig,
    recipe: Recipe,
    save: Callable[[Report], None],
) -> Report:
    """Train until the budget is used up or the user interrupts, saving now and then."""
    optimizer = make_optimizer(model, recipe)
    windows = batches(stream, recipe.batch, config.context, recipe.seed)
    report, stop = Report(), StopFlag()
    start = shown = saved = time.monotonic()
    tokens_shown = 0
    while not stop.raised:
        now = time.monotonic()
        report.seconds = now - start
        progress = share_used(report, recipe)
        if progress >= 1:
            report.complete = True
            break
        rate = learning_rate(progress, recipe)
        loss = train_step(model, optimizer, next(windows), rate, recipe.bf16)
        report.steps += 1
        report.tokens += recipe.batch * config.context
        keep = min(0.99, 1 - 1 / report.steps)
        report.train_loss = loss if keep == 0 else keep * report.train_loss + (1 - keep) * loss
        if now - shown > 10:
            speed = (report.tokens - tokens_shown) / (now - shown)
            show_progress(report, progress, rate, speed)
            shown, tokens_shown = now, report.tokens
        if now - saved > 60 * recipe.save_minutes:
            save(report)
            saved = time.monotonic()
    return report


def show_progress(report: Report, progress: float, rate: float, speed: float) -> None:
    """Print one line on how the training goes."""
    print(
        f"{100 * progress:5.1f} %  step {report.steps:6d}  loss {report.train_loss:.4f}  "
        f"lr {rate:.2e}  {speed:7.0f} tokens/s  {report.tokens / 1e6:7.2f} M tokens  "
        f"{report.seconds / 60:5.1f} min",
        flush=True,
    )


# ---------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def evaluate(model: nn.Module, stream: np.ndarray, context: int) -> tuple[float, float]:
    """Return the mean and the sum of the nats over a stream cut into contexts."""
    total, count = 0.0, 0
    for start in range(0, len(stream) - 1, context):
        window = torch.from_numpy(stream[start : start + context + 1]).unsqueeze(0)
        size = window.shape[1] - 1
        total += next_token_loss(model, window).item() * size
        count += size
    return total / count, total


@torch.no_grad()
def complete(model: nn.Module, tokenizer: Tokenizer, prompt: str, count: int) -> str:
    """Return the greedy continuation of a prompt."""
    ids = tokenizer.encode(prompt).ids
    length = len(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return tokenizer.decode(ids[length:], skip_special_tokens=False)


def rounded_copy(model: Decoder, config: ModelConfig) -> Decoder:
    """Return a float32 copy whose weights went through bfloat16, as they are shipped."""
    copy = Decoder(config)
    copy.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    return copy.eval()


def measure(
    model: Decoder, tokenizer: Tokenizer, corpus: Corpus, config: ModelConfig, report: Report
) -> None:
    """Fill in the validation figures and the samples, with the weights as shipped."""
    shipped = rounded_copy(model, config)
    report.valid_loss, nats = evaluate(shipped, corpus.valid, config.context)
    report.bits_per_byte = nats / math.log(2) / corpus.valid_bytes
    report.samples = [(p, complete(shipped, tokenizer, p, 64)) for p in SAMPLE_PROMPTS]


# -------------------------------------------------------------------------------------- output


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees either the old or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def hugging_face_config(config: ModelConfig, end: int) -> dict[str, object]:
    """Return the config.json of a Llama of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "initializer_range": 0.02,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": end,
        "eos_token_id": end,
    }


def tokenizer_config(context: int) -> dict[str, object]:
    """Return the tokenizer_config.json that goes with tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_weights(model: Decoder, path: Path) -> None:
    """Write the weights in bfloat16 under their Hugging Face names (the tied head is not)."""
    tensors = {
        f"model.{name}": tensor.detach().bfloat16().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_atomically(path, serialize_tensors(tensors, metadata={"format": "pt"}))


def write_folder(
    out: Path, model: Decoder, tokenizer: Tokenizer, config: ModelConfig, card: str
) -> None:
    """Write every file of the Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", hugging_face_config(config, end_of_text_id(tokenizer)))
    write_json(out / "tokenizer_config.json", tokenizer_config(config.context))
    write_atomically(out / "tokenizer.json", (tokenizer.to_str(pretty=True) + "\n").encode())
    write_weights(model, out / "model.safetensors")
    write_atomically(out / "README.md", card.encode())


CARD = """---
language: code
library_name: infinisa
tags: [python, llama, tiny]
---

# python_lm

The language model that InfinISA ships: a {millions:.2f} M parameter decoder that writes text which
looks like Python. It exists so that the simulator has a real model to run, one that is small enough
to simulate in full and whose output a reader can recognise. It is not a coding assistant.

## Model

| | |
|---|---|
| type | Llama decoder (`LlamaForCausalLM`): RMSNorm, rotary positions, SwiGLU, no biases |
| hidden size | {hidden_size} |
| layers | {num_layers} |
| attention | {num_heads} query heads and {num_kv_heads} key/value heads of {head_dim} |
| feed-forward size | {intermediate_size} |
| vocabulary | {vocab_size}, byte-level BPE (GPT-2 splitting rule); output tied to the embedding |
| context | {context} tokens |
| parameters | {parameters:,} |
| stored as | bfloat16 |

The one special token, `<|endoftext|>`, stood in front of each training file; no token is added to
a prompt.

## Data

The source of the Python standard library of CPython {python}, without its tests, IDLE, the turtle
demos, the bundled pip, the codec tables and other generated files: {train_files} files,
{train_bytes:,} bytes, {train_tokens:,} tokens. {valid_files} more files ({valid_bytes:,} bytes,
{valid_tokens:,} tokens), drawn at random, were held out for validation; neither the tokenizer nor
the model saw them.

## Training

| | |
|---|---|
| tokens seen | {tokens:,} ({passes:.1f} passes over the data) |
| steps | {steps:,} of {batch} x {context} tokens |
| time | {minutes:.1f} minutes on {threads} CPU threads{early} |
| optimiser | AdamW, betas 0.9 and 0.95, weight decay {weight_decay}, gradients clipped to norm 1 |
| learning rate | {peak_lr}, linear warm-up over {warmup:.0%} of the budget, then a cosine |
| arithmetic | {arithmetic} |
| seed | {seed} |

`tools/train_default_model.py` holds the whole recipe and wrote this folder.

## Results

| | |
|---|---|
| training loss | {train_loss:.3f} nats per token (running mean of the last hundred steps or so) |
| validation loss | {valid_loss:.3f} nats per token |
| validation bits per byte | {bits_per_byte:.3f} |

Validation uses the weights as stored, rounded to bfloat16, and float32 arithmetic, on consecutive
blocks of {context} tokens: the first tokens of a block are guessed with hardly any context.

## Samples

Greedy decoding, 64 tokens, the same weights and arithmetic; a prompt, then what the model added.

{samples}
## Limits

- It knows the style of the standard library, not what code does: names appear from nowhere and the
  logic is rarely right. Do not run what it writes.
- It has read a small text several times and may reproduce pieces of it word for word.
- Positions beyond {context} were never trained.
- It knows no natural language beyond comments and docstrings, and follows no instruction.

## Licence

The training text is copyright the Python Software Foundation and contributors, under the PSF
License Agreement version 2 (https://docs.python.org/3/license.html); text that the model
reproduces from it stays under that licence. The weights come under the licence of InfinISA.
"""


def format_samples(samples: list[tuple[str, str]]) -> str:
    """Return the samples as fenced blocks of Python."""
    blocks = []
    for prompt, continuation in samples:
        shown = continuation.strip("\n")
        blocks.append(f"```python\n{prompt}\n```\n\nwent on as\n\n```python\n{shown}\n```\n")
    return "\n".join(blocks)


def model_card(
    config: ModelConfig, recipe: Recipe, corpus: Corpus, report: Report, parameters: int
) -> str:
    """Return the text of README.md."""
    facts = asdict(config) | asdict(recipe) | asdict(report)
    facts |= {
        "parameters": parameters,
        "millions": parameters / 1e6,
        "python": platform.python_version(),
        "train_files": corpus.train_files,
        "train_bytes": corpus.train_bytes,
        "train_tokens": len(corpus.train),
        "valid_files": corpus.valid_files,
        "valid_bytes": corpus.valid_bytes,
        "valid_tokens": len(corpus.valid),
        "passes": report.tokens / len(corpus.train),
        "minutes": report.seconds / 60,
        "threads": torch.get_num_threads(),
        "early": "" if report.complete else ", ended before the budget was used up",
        "arithmetic": "bfloat16 autocast, float32 weights" if recipe.bf16 else "float32",
        "samples": format_samples(report.samples),
    }
    return CARD.format(**facts)


# ------------------------------------------------------------------------------------- program


STEPS_HELP = "train this many steps instead, whatever time they take"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train the small Python language model that InfinISA ships.",
        epilog="Ctrl-C ends the training early and saves what there is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("plugins/models/python_lm"), help="folder to write")
    add("--minutes", type=float, default=48.0, help="wall-clock time to train for")
    add("--steps", type=int, default=argparse.SUPPRESS, help=STEPS_HELP)
    add("--seed", type=int, default=1234, help="seed of the split, the weights and the order")
    add("--batch", type=int, default=8, help="windows per step")
    add("--lr", type=float, default=2e-3, help="peak learning rate")
    add("--weight-decay", type=float, default=0.1, help="AdamW's decay of the matrices")
    add("--warmup", type=float, default=0.03, help="share of the budget spent warming up")
    add("--save-minutes", type=float, default=5.0, help="time between two saves")
    add("--threads", type=int, default=2, help="threads that torch may use")
    add("--precision", choices=("bf16", "fp32"), default="bf16", help="type of the products")
    add("--compile", action="store_true", help="compile the model (needs a C++ compiler)")
    return parser.parse_args()


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that the command line asks for."""
    return Recipe(
        minutes=arguments.minutes,
        steps=getattr(arguments, "steps", None),
        batch=arguments.batch,
        peak_lr=arguments.lr,
        weight_decay=arguments.weight_decay,
        warmup=arguments.warmup,
        seed=arguments.seed,
        bf16=arguments.precision == "bf16",
        save_minutes=arguments.save_minutes,
    )


def main() -> int:
    """Gather, tokenize, train, evaluate and write."""
    arguments = parse_arguments()
    config, recipe = ModelConfig(), recipe_from(arguments)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(recipe.seed)
    texts = gather_sources(Path(sysconfig.get_path("stdlib")))
    train_texts, valid_texts = split_files(texts, recipe.seed)
    tokenizer = train_tokenizer(train_texts, config.vocab_size)
    corpus = build_corpus(tokenizer, train_texts, valid_texts)
    model = Decoder(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{corpus.train_files} files, {corpus.train_bytes / 1e6:.2f} MB, "
        f"{len(corpus.train) / 1e6:.2f} M tokens to train on; {corpus.valid_files} files, "
        f"{len(corpus.valid) / 1e3:.0f} k tokens held out; {parameters / 1e6:.2f} M parameters",
        flush=True,
    )

    def save(report: Report) -> None:
        measure(model, tokenizer, corpus, config, report)
        card = model_card(config, recipe, corpus, report, parameters)
        write_folder(arguments.out, model, tokenizer, config, card)
        print(
            f"saved; validation loss {report.valid_loss:.4f} nats per token, "
            f"{report.bits_per_byte:.4f} bits per byte",
            flush=True,
        )

    module = cast(nn.Module, torch.compile(model)) if arguments.compile else model
    save(train(module, corpus.train, config, recipe, save))
    return 0


if __name__ == "__main__":
    sys.exit(main())
