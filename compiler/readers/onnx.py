"""ONNX files → models.

Constants are folded, and so is arithmetic on shapes; every other node is what its operator says.
Sizes are bound when the file is read. Nothing in a file is trusted: a file that is not whole, a
shape that does not fit, an operator or type that is not known, and data outside the model's folder
are errors that name the file and the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import InfinisaError, ModelError
from infinisa.isa.garbage import uncollected
from infinisa.isa.language import Input, Node

from ..graph import Graph, Model
from ..positional.naming import Named, name_axes
from ..positional.operator import DEFAULT_DOMAIN, TYPES, Operator, table
from ..positional.tensor import Data, Tensor, constant, content_of, digest, from_array, outer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

Array = NDArray[Any]
Scope = dict[str, Tensor]

OPSETS = range(7, 29)
"""The versions of the default domain that are read."""

DEEPEST = 16
"""How deep graphs may lie inside graphs."""

FOLDED = 1 << 24
"""Constants of more elements are not computed when a model is read."""

COMPUTED = frozenset(
    (
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Det", "Hardmax"),
        *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Compress"),
        *("NonZero", "ScatterElements", "ScatterND", "TopK", "Unique"),
    )
)
"""Operators that need not be known when their inputs are constants: their results are no larger."""


@uncollected()
def read(
    path: str | Path, operators: Iterable[Operator], sizes: Mapping[str, int] | None = None
) -> Model:
    """The model in a file.

    sizes   numbers for the dimensions that the file leaves open, by their names
    """
    path = Path(path)
    model = _load(path)
    with _about(str(path)):
        reading = _Reading(path, _opsets(model), table(operators), dict(sizes or {}))
        return reading.model(model)


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Say of errors what they are about."""
    try:
        yield
    except InfinisaError as error:
        raise ModelError(f"{what}: {error}") from None


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError:
        raise ModelError(f"{path}: reading needs onnx: pip install infinisa[onnx]") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # protobuf's own error, which has no types
        raise ModelError(f"{path}: is not an ONNX file, or is not whole") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path}: is not an ONNX file, or is not whole")
    if model.functions:
        with _about(str(path)):
            _refuse_cycles(model.functions)
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    return model


def _refuse_cycles(functions: Iterable[onnx.FunctionProto]) -> None:
    """Functions that call themselves cannot be written out."""
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in f.node} for f in functions}
    while calls:
        ready = [name for name, uses in calls.items() if not uses.intersection(calls)]
        if not ready:
            raise ModelError(f"function {next(iter(calls))[1]!r} calls itself")
        for name in ready:
            del calls[name]


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {entry.domain or DEFAULT_DOMAIN: entry.version for entry in model.opset_import}


@dataclass
class _Reading:
    """What is known while a file is read."""

    path: Path
    opsets: Mapping[str, int]
    operators: Mapping[tuple[str, str], Sequence[Operator]]
    sizes: Mapping[str, int]
    dimensions: dict[str, None] = field(default_factory=dict)
    named: list[tuple[str, list[Tensor]]] = field(default_factory=list)
    nodes: int = 0

    # ------------------------------------------------------------ graphs

    def model(self, model: onnx.ModelProto) -> Model:
        version = self.opsets.get(DEFAULT_DOMAIN, OPSETS[0])
        if version not in OPSETS:
            raise ModelError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, not {version}")
        graph = model.graph
        constants = {weight.name for weight in graph.initializer}
        given = {v.name: self._input(v) for v in graph.input if v.name not in constants}
        if unknown := [name for name in self.sizes if name not in self.dimensions]:
            known = ", ".join(self.dimensions) or "none"
            raise ModelError(f"dimension {unknown[0]!r}: must be one of {known}")
        found = self._graph(graph, dict(given), 0)
        for value in graph.output:
            self._check_output(value, found[value.name])
        outputs = {name: tensor.exact() for name, tensor in found.items()}
        named = name_axes(list(given.values()), list(outputs.values()))
        return self._made(graph, named, given, outputs)

    def _made(self, graph: onnx.GraphProto, named: Named, given: Scope, outputs: Scope) -> Model:
        roots = {name: named.nodes[tensor] for name, tensor in outputs.items()}
        inputs = {}
        for name, tensor in given.items():
            leaf = named.nodes[tensor]
            assert isinstance(leaf, Input)
            inputs[name] = leaf, tuple(named.names.sizes[axis] for axis in leaf.axes)
        used = [leaf for leaf, shape in inputs.values() if 0 not in shape]
        extents = named.extents([*roots.values(), *used])
        tensors = {**given, **outputs}
        main = Graph("main", extents, roots, names=self._names(named))
        return Model(
            graph.name or self.path.stem,
            (main,),
            inputs,
            named.weights,
            layouts={name: named.layout(tensor) for name, tensor in tensors.items()},
        )

    def _names(self, named: Named) -> dict[Node, str]:
        """What the file calls each node, and what a node was taken apart into."""
        found: dict[Node, str] = {}
        for name, tensors in self.named:
            for tensor in tensors:
                rest = [named.nodes[tensor]] if tensor in named.nodes else []
                while rest:
                    node = rest.pop()
                    if node not in found and node.children:
                        found[node] = name
                        rest.extend(node.children)
        return found

    def _graph(self, graph: onnx.GraphProto, scope: Scope, depth: int) -> Scope:
        """The outputs of a graph over the values in scope."""
        if depth > DEEPEST:
            raise ModelError(f"graphs inside graphs must not be deeper than {DEEPEST}")
        if graph.sparse_initializer:
            raise ModelError("sparse tensors are not supported")
        for weight in graph.initializer:
            with _about(f"tensor {weight.name!r}"):
                scope[weight.name] = constant(self._data(weight))
        for node in graph.node:
            self._node(node, scope, depth)
        outputs = {}
        for value in graph.output:
            if value.name not in scope:
                raise ModelError(f"output {value.name!r} is computed by nothing")
            outputs[value.name] = scope[value.name]
        return outputs

    def _input(self, value: onnx.ValueInfoProto) -> Tensor:
        with _about(f"input {value.name!r}"):
            dtype, dims = self._type(value)
            shape = [self._size(value.name, k, dim) for k, dim in enumerate(dims)]
            return outer(value.name, dtype, shape, [dim.dim_param for dim in dims])

    def _type(
        self, value: onnx.ValueInfoProto
    ) -> tuple[str, Sequence[onnx.TensorShapeProto.Dimension]]:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(f"must be a tensor, not {kind}")
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ModelError("has no shape")
        return _dtype(tensor.elem_type), tensor.shape.dim

    def _size(self, name: str, number: int, dim: onnx.TensorShapeProto.Dimension) -> int:
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise ModelError(f"dimension {number} must be 0 or more, not {dim.dim_value}")
            return dim.dim_value
        title = dim.dim_param or f"{name}.{number}"
        self.dimensions[title] = None
        if title not in self.sizes:
            raise ModelError(
                f"dimension {number} ({title}) has no size: give one, as in --size {title}=1"
            )
        return self.sizes[title]

    def _check_output(self, value: onnx.ValueInfoProto, tensor: Tensor) -> None:
        """The shape that the file states must be the one that is computed."""
        if value.type.WhichOneof("value") != "tensor_type":
            return
        stated = value.type.tensor_type
        if not stated.HasField("shape"):
            return
        dims = [d.dim_value if d.HasField("dim_value") else None for d in stated.shape.dim]
        fit = len(dims) == tensor.rank and all(
            d is None or d == n for d, n in zip(dims, tensor.shape, strict=True)
        )
        if not fit:
            text = ", ".join("?" if d is None else str(d) for d in dims)
            raise ModelError(f"output {value.name!r} must have shape ({text}), not {tensor.shape}")

    # ------------------------------------------------------------ nodes

    def _node(self, node: onnx.NodeProto, scope: Scope, depth: int) -> None:
        title = node.name or f"{node.op_type}#{self.nodes}"
        self.nodes += 1
        domain = node.domain or DEFAULT_DOMAIN
        what = f"node {title!r} ({node.op_type}, domain {domain}, opset {self.opsets.get(domain)})"
        with _about(what):
            inputs = [self._value(name, scope) for name in node.input]
            while inputs and inputs[-1] is None:
                inputs.pop()
            attributes = {a.name: self._attribute(a, scope, depth) for a in node.attribute}
            results = self._results(node, domain, inputs, attributes)
            if len(results) < sum(1 for name in node.output if name):
                raise ModelError(f"has {len(results)} outputs, not {len(node.output)}")
            stored = []
            for name, tensor in zip(node.output, results, strict=False):
                if not name:
                    continue
                if tensor is None:
                    raise ModelError(f"output {name!r} is not supported")
                if name in scope and scope[name] not in inputs and depth == 0:
                    raise ModelError(f"output {name!r} is computed twice")
                scope[name] = tensor if tensor in inputs else tensor.stored()
                stored.append(scope[name])
        self.named.append((title, stored))

    def _value(self, name: str, scope: Scope) -> Tensor | None:
        if name and name not in scope:
            raise ModelError(f"input {name!r} is computed by nothing before it")
        return scope[name] if name else None

    def _results(
        self,
        node: onnx.NodeProto,
        domain: str,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, Any],
    ) -> Sequence[Tensor | None]:
        """What the operator says; what follows from constants alone is computed now."""
        fixed = all(x is None or x.data for x in inputs) and not any(
            map(callable, attributes.values())
        )
        if node.op_type == "Constant" and domain == DEFAULT_DOMAIN:
            return [_constant(node, attributes)]
        try:
            found = self._operator(node, domain)
            results = found.apply(inputs, attributes, len(node.output))
        except ModelError:
            values = self._folded(node, domain, inputs) if fixed else None
            if values is None:
                raise
            return values
        if fixed and not all(result is None or result.data for result in results):
            small = all(result is None or prod(result.shape) <= FOLDED for result in results)
            values = self._folded(node, domain, inputs) if small else None
            return results if values is None else values
        return results

    def _operator(self, node: onnx.NodeProto, domain: str) -> Operator:
        version = self.opsets.get(domain)
        if version is None:
            raise ModelError("the file imports no version of the domain")
        versions = self.operators.get((domain, node.op_type), ())
        for candidate in versions:
            if candidate.serves(version):
                return candidate
        if versions:
            spans = ", ".join(f"{v.since} to {v.until or 'now'}" for v in versions)
            raise ModelError(f"the operator is known for versions {spans}, not {version}")
        raise ModelError("the operator is not known")

    def _folded(
        self, node: onnx.NodeProto, domain: str, inputs: Sequence[Tensor | None]
    ) -> list[Tensor | None] | None:
        """The outputs of a node with constant inputs; None if it is not to be computed here."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        sizes = [prod(x.shape) for x in inputs if x is not None]
        known = node.op_type in COMPUTED or (domain, node.op_type) in self.operators
        if domain != DEFAULT_DOMAIN or not known or sum(sizes) > FOLDED:
            return None
        pairs = zip(node.input, inputs, strict=False)
        values = {name: x.values(name) for name, x in pairs if x is not None}
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in values.items()
        ]
        names = [name for name in node.output if name]
        graph = helper.make_graph(
            [node], "constant", infos, [helper.make_empty_tensor_value_info(n) for n in names]
        )
        versions = [helper.make_opsetid("", self.opsets[DEFAULT_DOMAIN])]
        try:
            model = helper.make_model(graph, opset_imports=versions)
            found = ReferenceEvaluator(model).run(None, values)
            made = {n: from_array(np.asarray(v), n) for n, v in zip(names, found, strict=True)}
        except Exception:  # whatever the evaluator cannot do is left to the operator
            return None
        return [made.get(name) for name in node.output]

    # ------------------------------------------------------------ attributes

    def _attribute(self, attribute: onnx.AttributeProto, scope: Scope, depth: int) -> Any:
        from onnx import AttributeProto, helper

        with _about(f"attribute {attribute.name!r}"):
            if attribute.ref_attr_name:
                raise ModelError(f"refers to {attribute.ref_attr_name!r} outside a function")
            match attribute.type:
                case AttributeProto.TENSOR:
                    return self._data(attribute.t)
                case AttributeProto.GRAPH:
                    return self._body(attribute.g, scope, depth)
                case AttributeProto.STRING:
                    return attribute.s.decode("utf-8", "replace")
                case AttributeProto.STRINGS:
                    return tuple(word.decode("utf-8", "replace") for word in attribute.strings)
                case AttributeProto.INTS | AttributeProto.FLOATS:
                    return tuple(helper.get_attribute_value(attribute))
                case AttributeProto.INT | AttributeProto.FLOAT:
                    return helper.get_attribute_value(attribute)
            raise ModelError("has a type that is not supported")

    def _body(
        self, graph: onnx.GraphProto, scope: Scope, depth: int
    ) -> Callable[..., list[Tensor]]:
        """A graph inside an attribute, as a function of tensors."""

        def call(*tensors: Tensor) -> list[Tensor]:
            if len(tensors) != len(graph.input):
                raise ModelError(f"body takes {len(graph.input)} inputs, not {len(tensors)}")
            inner = dict(scope)
            inner.update((v.name, t) for v, t in zip(graph.input, tensors, strict=True))
            found = self._graph(graph, inner, depth + 1)
            return [found[value.name] for value in graph.output]

        return call

    # ------------------------------------------------------------ data

    def _data(self, tensor: onnx.TensorProto) -> Data:
        """A tensor of the file. Large ones beside the file are read when they are needed."""
        from onnx import TensorProto

        dtype, shape = _dtype(tensor.data_type), tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise ModelError(f"dimensions must be 0 or more, not {shape}")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor, dtype, shape)
        values = _inline(tensor, dtype, shape)
        return Data(tensor.name, shape, dtype, content_of(values), lambda: values, True)

    def _external(self, tensor: onnx.TensorProto, dtype: str, shape: tuple[int, ...]) -> Data:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = self._beside(entries.get("location", ""))
        kind = DTYPES[dtype].numpy
        count = prod(shape) * kind.itemsize
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(count)))
        except ValueError:
            raise ModelError("offset and length of external data must be integers") from None
        size = file.stat().st_size
        if length != count or offset < 0 or offset + length > size:
            raise ModelError(
                f"must have {count} bytes of external data, "
                f"not {length} from {offset} of a file of {size}"
            )

        def load() -> Array:
            if not count:
                return np.zeros(shape, kind)
            return np.memmap(file, kind, "r", offset, shape)

        changed = file.stat().st_mtime_ns
        content = digest(repr((str(file), changed, offset, length, dtype, shape)).encode())
        return Data(tensor.name, shape, dtype, content, load, True)

    def _beside(self, location: str) -> Path:
        """A file in the model's folder; anything else is refused."""
        folder = self.path.resolve().parent
        parts = Path(location)
        outside = parts.is_absolute() or ".." in parts.parts or not location or "\\" in location
        if outside or not (folder / parts).resolve().is_relative_to(folder):
            raise ModelError(f"external data must lie in the model's folder, not at {location!r}")
        if not (folder / parts).is_file():
            raise ModelError(f"external data {location!r} is not there")
        return (folder / parts).resolve()


def _dtype(number: int) -> str:
    if number not in TYPES:
        from onnx import TensorProto

        known = ", ".join(TensorProto.DataType.Name(kind) for kind in TYPES)
        name = TensorProto.DataType.Name(number) if 0 <= number < 32 else str(number)
        raise ModelError(f"data type must be one of {known}, not {name}")
    return TYPES[number]


def _inline(tensor: onnx.TensorProto, dtype: str, shape: tuple[int, ...]) -> Array:
    from onnx import numpy_helper

    kind = DTYPES[dtype].numpy
    if tensor.HasField("raw_data"):
        need = prod(shape) * kind.itemsize
        if len(tensor.raw_data) != need:
            raise ModelError(f"shape {shape} needs {need} bytes, not {len(tensor.raw_data)}")
        return np.frombuffer(tensor.raw_data, kind).reshape(shape)
    try:
        values = numpy_helper.to_array(tensor)
    except Exception:  # the helper raises what NumPy raises
        raise ModelError(f"its values do not fill shape {shape}") from None
    return values.astype(kind, copy=False)


def _constant(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Tensor:
    match list(attributes.items()):
        case [("value", Data() as data)]:
            return constant(Data(node.output[0], data.shape, data.dtype, data.content, data.load))
        case [("value_float" | "value_floats", numbers)]:
            return from_array(np.asarray(numbers, np.float32), node.output[0])
        case [("value_int" | "value_ints", numbers)]:
            return from_array(np.asarray(numbers, np.int64), node.output[0])
    raise ModelError(f"a constant must be numbers, not {', '.join(attributes) or 'nothing'}")
