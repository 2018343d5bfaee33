"""Encode a training state as two byte strings: safetensors for the tensors, JSON for everything else.

A *tree* consists of dicts with text or integer keys, lists, tuples, text, numbers, booleans, None and tensors.
`flatten` takes the tensors out of it and returns a *skeleton* that JSON can hold. Marks in the skeleton replace what
JSON cannot hold. A mark is an object with one key that starts with `$`:

    {"$tensor": name}    a tensor, by its name in the safetensors file (its path in the tree)
    {"$tuple": [...]}    a tuple                        {"$float": "inf"}         inf, -inf or nan
    {"$dict": [[k, v]]}  a dict with an integer key, or with a key that starts with `$`
    {"$counter": [...]}  a collections.Counter (torch's MultiStepLR keeps its milestones in one)

The same tree gives the same bytes in every process: no safetensors metadata (its order differs), no sets, no pickle.
Any other type is an error that names its path in the tree, so everything that is saved can be read back. Tensors are
saved by value: strides, sharing and device are not kept, and a checkpoint is read on the CPU. An OrderedDict is read
back as a dict, which `load_state_dict` accepts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from driftspec.errors import DriftspecError, shown

if TYPE_CHECKING:
    from torch import Tensor

Tree: TypeAlias = Any
Skeleton: TypeAlias = Any
TreePath: TypeAlias = tuple[object, ...]

FORMAT = 1
DEPTH = 100
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
"""The dtypes that every release of safetensors since 0.5 can write and read."""


def encode(tree: Tree) -> tuple[bytes, bytes]:
    """Return (tensor file, JSON file). The JSON file holds the sha256 of the tensor file, to detect a wrong pair."""
    from safetensors.torch import save

    tensors, skeleton = flatten(tree)
    data = save(tensors)
    note = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), "tree": skeleton}
    return data, json.dumps(note, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode(data: bytes, note: bytes) -> Tree:
    """Return the tree that was encoded. DriftspecError if the two files are not a pair, or if one is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = json.loads(note)
    except (ValueError, RecursionError) as error:
        raise DriftspecError("its JSON file is damaged (it is not JSON)") from error
    if not (isinstance(content, dict) and {"format", "sha256", "tree"} <= content.keys()):
        raise DriftspecError("its JSON file is damaged (it needs the keys 'format', 'sha256' and 'tree')")
    form, digest, skeleton = content["format"], content["sha256"], content["tree"]
    if form != FORMAT:
        raise DriftspecError(f"the checkpoint has format {shown(form)}, this version of driftspec reads {FORMAT}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise DriftspecError(f"the tensors' file ({len(data)} bytes) is not the one whose digest the JSON file holds")
    try:
        return unflatten(skeleton, load(data))
    except SafetensorError as error:
        raise DriftspecError(f"the tensors' file is damaged ({error})") from error


def flatten(tree: Tree) -> tuple[dict[str, Tensor], Skeleton]:
    """Return (tensors by name, skeleton). The tensors (of any shape) are copies, so training may change its own."""
    tensors: dict[str, Tensor] = {}
    return tensors, _flat(tree, (), tensors)


def unflatten(skeleton: Skeleton, tensors: Mapping[str, Tensor]) -> Tree:
    """Return the tree of a skeleton. Its tensors, of any shape, are those of `tensors`, not copies."""
    try:
        return _tree(skeleton, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DriftspecError("its JSON file is damaged (the value of 'tree' is not what a run writes)") from error


def _flat(value: Tree, path: TreePath, tensors: dict[str, Tensor]) -> Skeleton:
    """Return the skeleton of one value; put its tensors into `tensors`.

    Types are compared exactly: a subclass (an enum, a named tuple, numpy.float64) would be read back as its base class.
    """
    from torch import Tensor

    kind = type(value)
    if len(path) > DEPTH:
        raise _refused(path, f"more than {DEPTH} levels", "does the tree contain itself?")
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return _text(value, path)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind in (list, tuple):
        items = [_flat(item, (*path, i), tensors) for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind in (dict, OrderedDict, Counter):
        pairs = [[_key(key, path), _flat(item, (*path, key), tensors)] for key, item in value.items()]
        if kind is Counter:
            return {"$counter": pairs}
        return dict(pairs) if all(_is_plain(key) for key in value) else {"$dict": pairs}
    if isinstance(value, Tensor):
        return {"$tensor": _add(value, path, tensors)}
    raise _refused(path, f"a {kind.__module__}.{kind.__qualname__}", "make it a plain number, text, list or tensor")


def _is_plain(key: object) -> bool:
    """Whether JSON keeps the key as it is, and it does not look like a mark."""
    return isinstance(key, str) and not key.startswith("$")


def _key(key: object, path: TreePath) -> str | int:
    """Return the key of a dict. DriftspecError if it is neither text nor an integer."""
    if type(key) is int:
        return key
    if type(key) is str:
        return _text(key, path)
    raise _refused(path, f"the key {key!r} ({type(key).__name__})", "a key is text or an integer")


def _text(value: str, path: TreePath) -> str:
    """Return the text. DriftspecError for a lone surrogate: JSON would join two of them, safetensors accepts none."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _refused(path, f"{value!a}, which is not Unicode text,", "escape it")
    return value


def _add(tensor: Tensor, path: TreePath, tensors: dict[str, Tensor]) -> str:
    """Put a dense CPU copy of the tensor into `tensors`; return its name there."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        raise _refused(path, "a sparse, nested or meta tensor", "make it dense")
    if dtype not in DTYPES:
        raise _refused(path, f"a tensor of {dtype}", f"allowed: {', '.join(DTYPES)}")
    name = _name(path)
    while name in tensors:  # {1: a, "1": b} and {"a/b": a, "a": {"b": b}} have equal paths
        name += "'"
    tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return name


def _name(path: TreePath) -> str:
    """Return a tensor's name: "/" and its path. Without the slash it could be `__metadata__`, which is reserved."""
    return "/" + "/".join(map(str, path))


def _refused(path: TreePath, what: str, instead: str) -> DriftspecError:
    """Return the error for a value that a checkpoint cannot hold."""
    return DriftspecError(f"a checkpoint cannot hold {what} at {shown(_name(path), 200)}: {instead}")


def _tree(node: Skeleton, tensors: Mapping[str, Tensor]) -> Tree:
    """Return the tree of one part of a skeleton."""
    if isinstance(node, list):
        return [_tree(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    mark = next(iter(node), "")
    if not mark.startswith("$"):
        return {key: _tree(item, tensors) for key, item in node.items()}
    return _MARKS[mark](node[mark], tensors)


def _pairs(node: Skeleton, tensors: Mapping[str, Tensor]) -> dict[str | int, Tree]:
    """Return a dict from its list of [key, value]."""
    return {key: _tree(item, tensors) for key, item in node}


_MARKS: dict[str, Callable[[Skeleton, Mapping[str, Tensor]], Tree]] = {
    "$tensor": lambda name, tensors: tensors[name],
    "$tuple": lambda items, tensors: tuple(_tree(items, tensors)),
    "$float": lambda text, _: float(text),
    "$dict": _pairs,
    "$counter": lambda node, tensors: Counter(_pairs(node, tensors)),
}
