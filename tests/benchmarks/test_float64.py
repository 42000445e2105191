"""What judges whole models: NumPy's float64 computes what onnxruntime does, to its precision."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import _float64, _onnx
from benchmarks._cpu_models import distance, in_f32
from infinisa.plugins.models import PYTHON_LM

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 16,
    "vocab_size": 40, "layer_norm_epsilon": 1e-5,
}  # fmt: skip


def write(folder: Path, kind: str) -> None:
    """A small folder with random weights."""
    shapes: dict[str, tuple[int, ...]]
    if kind == "llama":
        config, shapes = LLAMA, {"model.embed_tokens": (40, 32), "model.norm": (32,)}
        for layer in range(2):
            name = f"model.layers.{layer}"
            shapes |= {f"{name}.self_attn.{part}_proj": (32, 32) for part in "qo"}
            shapes |= {f"{name}.self_attn.{part}_proj": (16, 32) for part in "kv"}
            shapes |= {f"{name}.mlp.{part}_proj": (48, 32) for part in ("gate", "up")}
            shapes |= {f"{name}.mlp.down_proj": (32, 48)}
            shapes |= {f"{name}.{part}_layernorm": (32,) for part in ("input", "post_attention")}
    else:
        config, shapes = GPT2, {"wte": (40, 32), "wpe": (16, 32), "ln_f": (32,)}
        for layer in range(2):
            shapes |= {f"h.{layer}.ln_{place}": (32,) for place in (1, 2)}
            shapes |= {f"h.{layer}.attn.c_attn": (32, 96), f"h.{layer}.attn.c_proj": (32, 32)}
            shapes |= {f"h.{layer}.mlp.c_fc": (32, 128), f"h.{layer}.mlp.c_proj": (128, 32)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    source = np.random.default_rng(0)
    weights = {
        f"{name}.weight": source.standard_normal(shape) / 4 for name, shape in shapes.items()
    }
    if kind == "gpt2":
        biased = [name for name in shapes if name not in ("wte", "wpe")]
        weights |= {f"{name}.bias": source.standard_normal(shapes[name][-1]) for name in biased}
    stored = {name: array.astype(np.float32) for name, array in weights.items()}
    save_file(stored, folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_compute_the_same(tmp_path: Path, kind: str) -> None:
    folder, ids = tmp_path / kind, np.array([3, 39, 0, 17, 17, 5])
    write(folder, kind)
    peer = _onnx.decoder(folder)

    found, _ = peer.step(peer.inputs(ids, 0), peer.empty())

    assert 0 < distance(found, _float64.logits(folder, ids)) < 1e-6


def test_a_folder_in_f32_is_its_own_copy(tmp_path: Path) -> None:
    write(tmp_path / "llama", "llama")

    with in_f32(tmp_path / "llama") as same:
        assert same == tmp_path / "llama"
    assert same.exists()


def test_a_folder_in_fewer_bits_has_a_copy_for_a_while() -> None:
    assert _onnx.stored_in(PYTHON_LM) != "F32"

    with in_f32(PYTHON_LM) as copy:
        assert _onnx.stored_in(copy) == "F32"
    assert not copy.exists()
