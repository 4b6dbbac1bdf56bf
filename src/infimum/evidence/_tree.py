"""Nested tuples, lists and dicts of tensors: what an encoder may return and a latent may be."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

__all__ = ["leaves", "map_tree"]

Tree = Any  # a tensor, or a (nested) tuple, list or dict of trees


def leaves(tree: Tree) -> Iterator[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for key in tree:
            yield from leaves(tree[key])
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)
    elif tree is not None:
        raise TypeError(f"expected a tensor or a nested tuple, list or dict of tensors, got {type(tree).__name__}")


def map_tree(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``function`` to the tensors of one tree, or of several trees of the same form."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {key: map_tree(function, tree[key], *(other[key] for other in others)) for key in tree}
    parts = [map_tree(function, *group) for group in zip(tree, *others, strict=True)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*parts)
    return type(tree)(parts)
