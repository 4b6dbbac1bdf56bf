"""Networks that more than one system uses."""

from infimum.nets.mlp import Activation, mlp

__all__ = ["Activation", "mlp"]
