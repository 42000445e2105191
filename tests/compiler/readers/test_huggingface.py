"""Hugging Face folders: values against transformers 4.57.6, and files that are wrong."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from infinisa.compiler.graph import Model
from infinisa.compiler.readers.huggingface import read_folder
from infinisa.compiler.reference import Values, evaluate_model
from infinisa.isa.errors import ModelError
from infinisa.isa.language import Map, Position, walk
from infinisa.isa.program import Count, Repeat
from tests.compiler.everywhere import MACHINES, agree_everywhere

Array = NDArray[Any]
IDS = [5, 17, 3, 9, 11, 2, 8]

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
}
LLAMA_3 = LLAMA | {
    "num_key_value_heads": 6,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 20,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 32,
}
BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
}


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    for layer in range(config["num_hidden_layers"]):
        where = f"model.layers.{layer}"
        shapes |= {
            f"{where}.input_layernorm.weight": (d,),
            f"{where}.self_attn.q_proj.weight": (queries, d),
            f"{where}.self_attn.k_proj.weight": (keys, d),
            f"{where}.self_attn.v_proj.weight": (keys, d),
            f"{where}.self_attn.o_proj.weight": (d, queries),
            f"{where}.post_attention_layernorm.weight": (d,),
            f"{where}.mlp.gate_proj.weight": (f, d),
            f"{where}.mlp.up_proj.weight": (f, d),
            f"{where}.mlp.down_proj.weight": (d, f),
        }
    shapes["model.norm.weight"] = (d,)
    return shapes if config.get("tie_word_embeddings") else shapes | {"lm_head.weight": (v, d)}


def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Weight and bias; the bias is as long as the output, which GPT-2 stores last."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}


def gpt2_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d, v, n = config["n_embd"], config["vocab_size"], config["n_positions"]
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (v, d), "wpe.weight": (n, d)}
    for number in range(config["n_layer"]):
        where = f"h.{number}"
        shapes |= layer(f"{where}.ln_1", d) | layer(f"{where}.attn.c_attn", d, 3 * d)
        shapes |= layer(f"{where}.attn.c_proj", d, d) | layer(f"{where}.ln_2", d)
        shapes |= layer(f"{where}.mlp.c_fc", d, 4 * d) | layer(f"{where}.mlp.c_proj", 4 * d, d)
    return shapes | layer("ln_f", d)


def bert_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def linear(name: str, outer: int, inner: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (v, d),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (2, d),
    } | layer("embeddings.LayerNorm", d)
    for number in range(config["num_hidden_layers"]):
        where = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{where}.attention.self.{part}", d, d)
        shapes |= linear(f"{where}.attention.output.dense", d, d)
        shapes |= layer(f"{where}.attention.output.LayerNorm", d)
        shapes |= linear(f"{where}.intermediate.dense", f, d) | linear(
            f"{where}.output.dense", d, f
        )
        shapes |= layer(f"{where}.output.LayerNorm", d)
    return shapes


SHAPES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]] = {
    "llama": llama_shapes,
    "gpt2": gpt2_shapes,
    "bert": bert_shapes,
}


def tensors(config: Mapping[str, Any]) -> dict[str, Array]:
    """Random weights; those of norms are near 1."""
    random = np.random.default_rng(3)
    found = {}
    for name, shape in SHAPES[config["model_type"]](config).items():
        values = random.normal(size=shape) * 0.4
        scales = len(shape) == 1 and name.endswith("weight")
        found[name] = (values + 1 if scales else values).astype(np.float32)
    return found


def write(folder: Path, config: Mapping[str, Any], prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({prefix + n: a for n, a in tensors(config).items()}, folder / "model.safetensors")
    return folder


def run(model: Model, tokens: int = 1, ids: Sequence[Any] = IDS) -> Values:
    given = np.zeros(model.inputs["prompt_ids"][1], np.int32)
    given[..., : len(IDS)] = ids
    settings = {"prompt": len(IDS)}
    if "tokens" in {p.name for p in model.parameters}:
        settings["tokens"] = tokens
    return evaluate_model(model, {"prompt_ids": given}, settings)


GOLDEN = {
    "llama": (
        [0.905544, 1.683182, -0.692544, -0.990123, -0.691538],
        [0.636182, 0.06513, -2.430912, -1.57004, -1.181054],
        [1, 2, 0, 14],
    ),
    "llama3": (
        [0.199599, -0.682081, 0.437378, -1.65476, -0.367762],
        [-2.179616, -0.506706, -0.179442, -1.042963, -0.428481],
        [18, 18, 18, 18],
    ),
    "gpt2": (
        [-2.168738, -2.681984, 1.735926, -1.543058, 0.485989],
        [-0.062641, -3.025245, 1.242004, -1.368437, -0.287136],
        [2, 9, 9, 9],
    ),
}
"""Logits after the prompt, logits before the fourth token, the four tokens."""


@pytest.mark.parametrize(
    ("name", "config"), [("llama", LLAMA), ("llama3", LLAMA_3), ("gpt2", GPT2)]
)
def test_a_decoder_computes_what_transformers_does(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    first, last, generated = GOLDEN[name]

    values = run(read_folder(write(tmp_path, config)), tokens=4)

    np.testing.assert_allclose(values.outputs["prefill/logits"][0, :5], first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values.outputs["decode/logits"][0, :5], last, rtol=1e-4, atol=1e-5)
    assert values.kept["ids"][: len(IDS) + 4].tolist() == IDS + generated


def test_an_encoder_computes_what_transformers_does(tmp_path: Path) -> None:
    values = run(read_folder(write(tmp_path, BERT)))

    hidden = [0.044964, 0.953037, 0.463119, -2.125284, -0.31]
    embedding = [0.01979, 0.256505, 0.153009, -0.584065, -0.095317]
    np.testing.assert_allclose(
        values.outputs["encoder/hidden"][2, :5], hidden, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        values.outputs["encoder/embedding"][:5], embedding, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("config", [LLAMA, GPT2, BERT], ids=["llama", "gpt2", "bert"])
def test_a_batch_computes_what_its_sequences_do_alone(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = write(tmp_path, config)
    sequences = [IDS, IDS[::-1], [1] * len(IDS)]

    values = run(read_folder(folder, batch=3), 4, sequences)

    alone = [run(read_folder(folder), 4, ids) for ids in sequences]
    for name, array in (values.outputs | values.kept).items():
        expected = np.stack([{**each.outputs, **each.kept}[name] for each in alone])
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_keys_and_values_may_be_kept_in_fewer_bits(
    config: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, config)
    model = read_folder(folder, prompt=len(IDS), tokens=4, cache_type=kind)
    expected, found = run(read_folder(folder), 4), run(model, 4)

    for name, kept in model.kept.items():
        assert kept.input.dtype == ("i32" if name == "ids" else kind)
        size = np.abs(expected.kept[name]).max()
        np.testing.assert_allclose(
            found.kept[name].astype(np.float32), expected.kept[name], rtol=0, atol=2e-2 * size
        )
    ids = np.resize(np.array(IDS, np.int32), model.inputs["prompt_ids"][1])
    done = agree_everywhere(model, MACHINES["tiny"], inputs={"prompt_ids": ids}, tolerance=2e-2)
    caches = [b for b in done.program.buffers if b.name in model.kept and b.name != "ids"]
    assert caches
    assert {b.dtype for b in caches} == {kind}


def test_an_unknown_type_of_caches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cache type must be one of f32, f16, bf16, not 'int8'"):
        read_folder(write(tmp_path, LLAMA), cache_type="int8")
    with pytest.raises(ModelError, match="an encoder keeps no keys and values"):
        read_folder(write(tmp_path, BERT), cache_type="f16")


def test_a_batch_works_on_the_tokens_of_all_its_sequences(tmp_path: Path) -> None:
    _, prefill, decode = read_folder(write(tmp_path, LLAMA), batch=3).graphs

    assert prefill.tokens == Count(0, (("prompt", 3),))
    assert decode.tokens == Count(3)


def test_a_sentence_is_pooled_as_its_modules_say(tmp_path: Path) -> None:
    """The largest of all tokens, not normalised."""
    folder = write(tmp_path, BERT)
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    values = run(read_folder(folder))

    expected = [0.103863, 0.953037, 0.631594, -1.966633, -0.31]
    np.testing.assert_allclose(
        values.outputs["encoder/embedding"][:5], expected, rtol=1e-4, atol=1e-5
    )


def test_a_decoder_has_a_prefill_and_a_repeated_step_over_the_same_expressions(
    tmp_path: Path,
) -> None:
    model = read_folder(write(tmp_path, LLAMA), prompt=5, tokens=3, context=16)

    begin, prefill, decode = model.graphs
    assert [graph.name for graph in model.graphs] == ["begin", "prefill", "decode"]
    assert prefill.roots == decode.roots
    assert decode.repeat == Repeat("turn", Count(-1, (("tokens", 1),)))
    position = Count(0, (("prompt", 1), ("turn", 1)))
    axes = {extent.axis: extent for extent in decode.extents}
    assert (axes["s"].start, axes["s"].length, axes["s"].end) == (position, Count(1), 15)
    assert (axes["t"].start, axes["t"].length) == (Count(), position + 1)
    assert (axes["r"].start, axes["r"].length) == (position, Count(1))
    rows = {extent.axis: extent for extent in prefill.extents}
    assert (rows["r"].start, rows["s"].length) == (
        Count(-1, (("prompt", 1),)),
        Count(0, (("prompt", 1),)),
    )
    assert {p.name: (p.most, p.default, p.given) for p in model.parameters} == {
        "prompt": (15, 5, True),
        "tokens": (15, 3, True),
        "turn": (15, 0, False),
    }
    assert model.kept["ids"].shape == (16,)
    assert model.kept["model.layers.1.keys"].shape == (16, 2, 2, 2)
    assert set(begin.updates) == {"ids"}


def test_nodes_keep_the_names_of_the_source(tmp_path: Path) -> None:
    model = read_folder(write(tmp_path, LLAMA))

    names = set(model.graphs[1].names.values())
    assert {"embedding", "layers.0.attention", "layers.1.norm", "logits", "next"} <= names


def test_heads_are_axes_and_weights_keep_their_bytes(tmp_path: Path) -> None:
    model = read_folder(write(tmp_path, LLAMA))

    weight = model.weights["model.layers.0.self_attn.q_proj.weight"]
    assert weight.input.axes == ("h", "g", "p", "i", "d")
    assert weight.shape == (2, 3, 2, 2, 12)
    stored = tensors(LLAMA)["model.layers.0.self_attn.q_proj.weight"]
    assert weight.load().tobytes() == stored.tobytes()


def test_the_causal_mask_is_by_position(tmp_path: Path) -> None:
    graph = read_folder(write(tmp_path, GPT2)).graphs[1]

    compared = {node for node in walk(graph.roots) if isinstance(node, Map)}
    assert Map("greater_equal", (Position("s"), Position("t"))) in compared


@pytest.mark.parametrize(
    ("config", "prefix"), [(GPT2, "transformer."), (BERT, "bert.")], ids=["gpt2", "bert"]
)
def test_names_may_have_the_prefix_of_a_larger_model(
    config: dict[str, Any], prefix: str, tmp_path: Path
) -> None:
    plain = run(read_folder(write(tmp_path / "plain", config)))

    prefixed = run(read_folder(write(tmp_path / "prefixed", config, prefix)))

    for name, array in plain.outputs.items():
        np.testing.assert_array_equal(prefixed.outputs[name], array)


def test_a_context_is_bounded_by_the_model_and_by_what_is_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, LLAMA)

    assert read_folder(folder).kept["ids"].shape == (32,)
    assert read_folder(folder, context=20).kept["ids"].shape == (20,)
    assert read_folder(folder, context=100).kept["ids"].shape == (32,)
    with pytest.raises(ModelError) as caught:
        run(read_folder(folder, context=8), tokens=3)
    assert str(caught.value) == (
        "graph 'decode': axis 's' must have at most 1 positions before 7, not 1 from 7"
    )


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LLAMA, {"model_type": "mamba"}, "model_type must be one of bert, gpt2, llama, "
         "not 'mamba'"),
        (LLAMA, {"hidden_size": "12"}, "hidden_size must be a positive integer, not '12'"),
        (LLAMA, {"num_key_value_heads": 4},
         "num_key_value_heads must be a divisor of 6 heads, not 4"),
        (LLAMA, {"attention_bias": True}, "attention_bias must be False, not True"),
        (LLAMA, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
         "rope_type must be default, linear or llama3, not 'yarn'"),
        (GPT2, {"n_head": 5}, "n_embd must be a multiple of n_head (5), not 12"),
        (GPT2, {"activation_function": "mish"}, "activation_function must be one of gelu, "
         "gelu_new, gelu_pytorch_tanh, relu, silu, swish, tanh, not 'mish'"),
        (BERT, {"position_embedding_type": "relative_key"},
         "position_embedding_type must be 'absolute', not 'relative_key'"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_built_is_refused(
    config: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, config)
    (folder / "config.json").write_text(json.dumps(config | change))

    with pytest.raises(ModelError) as caught:
        read_folder(folder)

    assert str(caught.value) == f"{folder / 'config.json'}: {message}"


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, LLAMA)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"intermediate_size": 11}))

    with pytest.raises(ModelError) as caught:
        read_folder(folder)

    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: tensor 'model.layers.0.mlp.gate_proj.weight' "
        "must have shape (11, 12), not (10, 12)"
    )


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, LLAMA)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 3}))

    with pytest.raises(ModelError) as caught:
        read_folder(folder)

    assert str(caught.value) == (
        f"{folder}: tensor 'model.layers.2.input_layernorm.weight' is missing"
    )


def test_a_folder_is_moved_and_its_program_stays_the_same(tmp_path: Path) -> None:
    """What names a weight follows from its values, not from where they lie."""
    first = read_folder(write(tmp_path / "here", LLAMA))
    shutil.copytree(tmp_path / "here", tmp_path / "there")

    second = read_folder(tmp_path / "there")

    assert [w.content for w in first.weights.values()] == [
        w.content for w in second.weights.values()
    ]
    assert len({w.content for w in first.weights.values()}) == len(first.weights)
