"""Shapes and types of every public annotation are checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("infimum", "typechecker.check")

import torch  # noqa: E402

torch.set_num_threads(1)
