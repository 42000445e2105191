"""Layers in instructions, by hand: what tests and measurements of the scheduler work on.

Each takes the instructions to choose from, and those of `OWN`, which no family needs yet.
"""

from __future__ import annotations

from dataclasses import replace

from infinisa.compiler.calls import Call, Covered, Tensor
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node, dot, sigmoid, tanh, view
from infinisa.isa.machine import Machine
from infinisa.isa.program import Count, Extent, parameter

from ._handmade import Handmade

Library = dict[str, Instruction]


def _convolution() -> Instruction:
    """3 x 3, same size, over images of channels c, rows h, columns w."""
    x, weight = Input("x", ("c", "h", "w")), Input("weight", ("o", "c", "r", "u"))
    windows = view(x, {"h": "p + r - 1", "w": "q + u - 1"}, fill=0.0)
    tile = (("o", "columns"), ("p", 1), ("q", "rows"))
    return Instruction(
        name="convolution",
        unit="matrix",
        operands=(x, weight),
        outputs=(dot(windows, weight, over="c r u"),),
        tile=tile,
    )


def _gate(zx: Node, zh: Node, number: int) -> Node:
    return view(zx, {"g": number}) + view(zh, {"g": number})


def _lstm_cell() -> Instruction:
    """Gates: input, forget, candidate, output."""
    zx, zh = (Input(name, ("b", "g", "n")) for name in ("zx", "zh"))
    c = Input("c", ("b", "n"))
    gates = [_gate(zx, zh, number) for number in range(4)]
    after = sigmoid(gates[1]) * c + sigmoid(gates[0]) * tanh(gates[2])
    h = sigmoid(gates[3]) * tanh(after)
    return Instruction(name="lstm_cell", unit="vector", operands=(zx, zh, c), outputs=(h, h, after))


def _gru_cell() -> Instruction:
    """Gates: update, reset, candidate."""
    zx, zh = (Input(name, ("b", "g", "n")) for name in ("zx", "zh"))
    h = Input("h", ("b", "n"))
    update, reset = sigmoid(_gate(zx, zh, 0)), sigmoid(_gate(zx, zh, 1))
    candidate = tanh(view(zx, {"g": 2}) + reset * view(zh, {"g": 2}))
    after = (1.0 - update) * candidate + update * h
    return Instruction(name="gru_cell", unit="vector", operands=(zx, zh, h), outputs=(after, after))


OWN = {made.name: made for made in (_convolution(), _lstm_cell(), _gru_cell())}


def gpt2(
    machine: Machine, library: Library, s: int, d: int, h: int, f: int, dtype: str = "bf16"
) -> Covered:
    """A layer as in GPT-2, over s tokens."""
    g = Handmade(
        "gpt2", machine, library, {"s": s, "t": s, "d": d, "o": d, "h": h, "e": d // h, "f": f}
    )
    g.tensor("x", "s d", "input", dtype)
    _weights(g, dtype, q="d h e", k="d h e", v="d h e", p="h e d", up="d f", down="f d")
    for name in ("n1.w", "n1.b", "n2.w", "n2.b"):
        g.tensor(name, "d", "weight", dtype)
    _temporaries(g, dtype, xn="s d", k="t h e", v="t h e", q="s h e", a="s h e")
    g.call("layer_norm", "m=s n=d", ["x[s d]", "n1.w[d]", "n1.b[d]"], ["xn[s d]"])
    for name, rows in (("k", "t"), ("v", "t"), ("q", "s")):
        g.tensor(f"{name}0", f"{rows} h e")
        _project(g, f"xn[{rows} d]", name, f"{name}0", rows)
        g.call("move", f"m={rows},h,e", [f"{name}0[{rows} h e]"], [f"{name}[{rows} h e]"])
    _attend(g, "causal_flash_step", "e", "q[s h e]", "k[t h e]", "v[t h e]")
    _close(g, dtype)
    g.call("layer_norm", "m=s n=d", ["y[s d]", "n2.w[d]", "n2.b[d]"], ["yn[s d]"])
    g.tensor("g0", "s f")
    g.call("matmul.step", "m=s k=d n=f", ["yn[s d]", "up[d f]"], ["g0[s f]"])
    g.call("gelu_tanh", "m=s,f", ["g0[s f]"], ["g[s f]"])
    return _down(g)


def llama(
    machine: Machine,
    library: Library,
    s: int,
    d: int,
    h: int,
    f: int,
    context: int = 0,
    bound: int = 0,
    dtype: str = "bf16",
) -> Covered:
    """A layer as in Llama, over s tokens; with a `context`, decoding: the s tokens end a context
    of at most `bound` positions, the length of which is parameter `context`."""
    extents: dict[str, int | Extent] = {"s": s, "t": s, "d": d, "h": h, "p": 2, "i": d // h // 2}
    rows = "t"
    if context:
        most, length = max(bound, context), parameter("context")
        extents |= {
            "t": Extent("t", length, most),
            "s": Extent("s", Count(s), s, length + -s, most),
        }
        rows = "s"
    g = Handmade("llama", machine, library, extents | {"e": d // h, "f": f})
    kept = "state" if context else "temporary"
    g.tensor("x", "s d", "input", dtype)
    _weights(
        g, dtype, q="d h p i", k="d h p i", v="d h e", p="h e d", gate="d f", up="d f", down="f d"
    )
    g.tensor("n1.w", "d", "weight", dtype)
    g.tensor("n2.w", "d", "weight", dtype)
    g.tensor("k", "t h p i", kept, dtype)
    g.tensor("v", "t h e", kept, dtype)
    _temporaries(g, dtype, xn="s d", q="s h p i", a="s h e")
    g.call("rms_norm", "m=s n=d", ["x[s d]", "n1.w[d]"], ["xn[s d]"])
    for name, over in (("k", rows), ("q", "s")):
        g.tensor(f"{name}0", f"{over} h p i")
        _project(g, f"xn[{over} d]", name, f"{name}0", over, "h p i")
        g.call("rope", f"s={over} p=p i=i", [f"{name}0[{over} h p i]"], [f"{name}[{over} h p i]"])
    g.tensor("v0", f"{rows} h e")
    _project(g, f"xn[{rows} d]", "v", "v0", rows)
    g.call("move", f"m={rows},h,e", [f"v0[{rows} h e]"], [f"v[{rows} h e]"])
    _attend(g, "causal_flash_step", "p,i", "q[s h p i]", "k[t h p i]", "v[t h e]")
    _close(g, dtype)
    g.call("rms_norm", "m=s n=d", ["y[s d]", "n2.w[d]"], ["yn[s d]"])
    for name in ("g0", "u0"):
        g.tensor(name, "s f")
    g.call("matmul.step", "m=s k=d n=f", ["yn[s d]", "gate[d f]"], ["g0[s f]"])
    g.call("matmul.step", "m=s k=d n=f", ["yn[s d]", "up[d f]"], ["u0[s f]"])
    g.call("swiglu", "m=s,f", ["g0[s f]", "u0[s f]"], ["g[s f]"])
    return _down(g)


def stacked(layer: Covered, times: int) -> Covered:
    """A layer again and again, each on the result `z` of the one before as its `x`."""
    tensors: dict[str, Tensor] = {}
    calls: list[Call] = []
    for number in range(times):
        names = {name: f"{number}.{name}" for name in layer.tensors}
        if number:
            names["x"] = f"{number - 1}.z"
        for name, tensor in layer.tensors.items():
            if name == "x" and number:
                continue
            made = replace(tensor, name=names[name])
            between = name == "z" and number + 1 < times
            tensors[made.name] = replace(made, kind="temporary") if between else made
        for call in layer.calls:
            reads = tuple(replace(a, tensor=names[a.tensor]) for a in call.reads)
            writes = tuple(replace(a, tensor=names[a.tensor]) for a in call.writes)
            name = f"{number}.{call.name}"
            calls.append(replace(call, name=name, reads=reads, writes=writes))
    return replace(layer, tensors=tensors, calls=tuple(calls))


def _weights(g: Handmade, dtype: str, /, **dims: str) -> None:
    for name, axes in dims.items():
        g.tensor(f"w.{name}" if name in "qkvp" else name, axes, "weight", dtype)


def _temporaries(g: Handmade, dtype: str, /, **dims: str) -> None:
    for name, axes in dims.items():
        g.tensor(name, axes, "temporary", dtype)


def _project(g: Handmade, x: str, weight: str, out: str, rows: str, columns: str = "h e") -> None:
    binding = f"m={rows} k=d n={columns.replace(' ', ',')}"
    g.call("matmul.step", binding, [x, f"w.{weight}[d {columns}]"], [f"{out}[{rows} {columns}]"])


def _attend(g: Handmade, step: str, width: str, q: str, k: str, v: str) -> None:
    for name, dims in (("top", "s h"), ("total", "s h"), ("weighted", "s h e")):
        g.tensor(name, dims)
    writes = ["top[s h]", "total[s h]", "weighted[s h e]"]
    g.call(step, f"s=s t=t d={width} e=e", [q, k, v], writes, scale=g.sizes["e"] ** -0.5)
    g.call("flash_finish", "s=s e=e", ["total[s h]", "weighted[s h e]"], ["a[s h e]"])


def _close(g: Handmade, dtype: str) -> None:
    """The projection of attention, and the residual behind it."""
    g.tensor("y0", "s d")
    _temporaries(g, dtype, y="s d", yn="s d", g="s f")
    g.call("matmul.step", "m=s k=h,e n=d", ["a[s h e]", "w.p[h e d]"], ["y0[s d]"])
    g.call("add", "m=s,d", ["y0[s d]", "x[s d]"], ["y[s d]"])


def _down(g: Handmade) -> Covered:
    g.tensor("z0", "s d")
    g.tensor("z", "s d", "output", g.tensors["x"].dtype)
    g.call("matmul.step", "m=s k=f n=d", ["g[s f]", "down[f d]"], ["z0[s d]"])
    g.call("add", "m=s,d", ["z0[s d]", "y[s d]"], ["z[s d]"])
    return g.covered()


def lstm(
    machine: Machine, library: Library, steps: int, b: int, n: int, dtype: str = "bf16"
) -> Covered:
    """The gates of x for all steps at once, then a scan; as many steps as parameter `steps`."""
    t = Extent("t", parameter("steps"), steps)
    g = Handmade("lstm", machine, library | OWN, {"t": t, "b": b, "n": n, "k": n, "j": n, "g": 4})
    g.tensor("x", "t b j", "input", dtype)
    g.tensor("w.x", "j g n", "weight", dtype)
    g.tensor("w.h", "k g n", "weight", dtype)
    g.tensor("zx", "t b g n")
    g.tensor("zh", "b g n")
    g.tensor("h", "b n", "carry", dtype)
    g.tensor("c", "b n", "carry", initial=0.5)
    g.tensor("y", "t b n", "output", dtype)
    g.call("matmul.step", "m=t,b k=j n=g,n", ["x[t b j]", "w.x[j g n]"], ["zx[t b g n]"])
    recurrent = ["h[b k]", "w.h[k g n]"]
    g.call("matmul.step", "m=b k=k n=g,n", recurrent, ["zh[b g n]"], scan="t")
    reads, writes = ["zx[t b g n]", "zh[b g n]", "c[b n]"], ["y[t b n]", "h[b n]", "c[b n]"]
    g.call("lstm_cell", "b=b g=g n=n", reads, writes, scan="t")
    return g.covered()


def bigru(
    machine: Machine,
    library: Library,
    steps: int,
    b: int,
    n: int,
    layers: int = 2,
    dtype: str = "bf16",
) -> Covered:
    """GRU layers that read a sequence from both ends; axis v of their results: which end."""
    t = Extent("t", parameter("steps"), steps)
    sizes: dict[str, int | Extent] = {"t": t, "b": b, "n": n, "k": n, "v": 2, "g": 3}
    g = Handmade("bigru", machine, library | OWN, sizes)
    g.tensor("y0", "t b v n", "input", dtype)
    for layer in range(1, layers + 1):
        kind = "output" if layer == layers else "temporary"
        g.tensor(f"y{layer}", "t b v n", kind, dtype)
        for way, reverse in enumerate((False, True)):
            _direction(g, layer, way, reverse, dtype)
    return g.covered()


def _direction(g: Handmade, layer: int, way: int, reverse: bool, dtype: str) -> None:
    end = f"{layer}.{way}"
    g.tensor(f"wx{end}", "v k g n", "weight", dtype)
    g.tensor(f"wh{end}", "k g n", "weight", dtype)
    g.tensor(f"zx{end}", "t b g n")
    g.tensor(f"zh{end}", "b g n")
    g.tensor(f"h{end}", "b n", "carry", dtype)
    before = [f"y{layer - 1}[t b v k]", f"wx{end}[v k g n]"]
    g.call("matmul.step", "m=t,b k=v,k n=g,n", before, [f"zx{end}[t b g n]"])
    recurrent = [f"h{end}[b k]", f"wh{end}[k g n]"]
    out = [f"zh{end}[b g n]"]
    g.call("matmul.step", "m=b k=k n=g,n", recurrent, out, scan="t", reverse=reverse)
    g.call(
        "gru_cell",
        "b=b g=g n=n",
        [f"zx{end}[t b g n]", f"zh{end}[b g n]", f"h{end}[b n]"],
        [f"y{layer}[t b {way} n]", f"h{end}[b n]"],
        scan="t",
        reverse=reverse,
    )


def resnet(machine: Machine, library: Library, side: int, c: int, dtype: str = "bf16") -> Covered:
    """Convolution, relu, convolution, add, relu."""
    sizes = {"c": c, "o": c, "k": c, "p": side, "q": side, "r": 3, "u": 3}
    g = Handmade("resnet", machine, library | OWN, sizes)
    unit = machine.unit("matrix")
    rows, depth = unit.room("rows") or 1, unit.room("depth") or 1
    wide = min(rows, side)
    limits = {"q": wide, "p": max(1, min(rows // wide, side))}
    deep = max(1, depth // 9)
    g.tensor("x", "c p q", "input", dtype)
    g.tensor("w1", "o c r u", "weight", dtype)
    g.tensor("w2", "k o r u", "weight", dtype)
    _temporaries(g, "f32", y0="o p q", z0="k p q", z1="k p q")
    g.tensor("y", "o p q", "temporary", dtype)
    g.tensor("z", "k p q", "output", dtype)
    g.call(
        "convolution.step", "o=o c=c p=p q=q r=r u=u h=h w=w",
        ["x[c h=p+r-1 w=q+u-1]", "w1[o c r u]"], ["y0[o p q]"],
        limits=limits | {"c": min(deep, c)}, fill=0.0,
    )  # fmt: skip
    g.call("relu", "m=o,p,q", ["y0[o p q]"], ["y[o p q]"])
    g.call(
        "convolution.step", "o=k c=o p=p q=q r=r u=u h=h w=w",
        ["y[o h=p+r-1 w=q+u-1]", "w2[k o r u]"], ["z0[k p q]"],
        limits=limits | {"o": min(deep, c)}, fill=0.0,
    )  # fmt: skip
    g.call("add", "m=k,p,q", ["z0[k p q]", "x[k p q]"], ["z1[k p q]"])
    g.call("relu", "m=k,p,q", ["z1[k p q]"], ["z[k p q]"])
    return g.covered()
