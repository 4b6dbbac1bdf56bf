"""Griffe extension: the shape strings of jaxtyping annotations stay strings (`Float[Tensor, "B"]` has no forward reference)."""

import dataclasses
from typing import Any

import griffe

ARRAYS = frozenset(
    {"Bool", "Complex", "Float", "Float32", "Float64", "Inexact", "Int", "Int64", "Num", "Shaped", "UInt8"}
)


def _quote(annotation: Any) -> None:
    """Put the quotes back that griffe has taken off every shape that happens to be a Python expression."""
    if isinstance(annotation, list):
        for part in annotation:
            _quote(part)
    if isinstance(annotation, griffe.ExprSubscript) and isinstance(annotation.slice, griffe.ExprTuple):
        shape = annotation.slice.elements
        if getattr(annotation.left, "name", None) in ARRAYS:
            text = str(shape[-1]).strip("'\"")
            shape[-1] = f'"{text}"'
            return
    if isinstance(annotation, griffe.Expr) and not isinstance(annotation, griffe.ExprName):  # a name knows its parent
        for field in dataclasses.fields(annotation):
            _quote(getattr(annotation, field.name))


class Shapes(griffe.Extension):
    """Visits every annotation once its package is loaded."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Parameters and the returned value."""
        for parameter in func.parameters:
            _quote(parameter.annotation)
        _quote(func.returns)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Fields and constants."""
        _quote(attr.annotation)
