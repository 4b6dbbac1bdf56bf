"""What a run ran on, and what it cost.  Nothing here names the computer, its user or its folders."""

import os
import platform
import sys
import time
from pathlib import Path

import torch

__all__ = ["cost", "environment"]


def environment(device: torch.device) -> dict[str, str | int]:
    """Versions and hardware, for ``result.json``."""
    from infimum import __version__

    return {
        "infimum": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def cost(device: torch.device) -> dict[str, int]:
    """Peak memory so far in bytes: of the process, and of the device where it has its own."""
    peaks = {}
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        pass
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks["peak_memory_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    if device.type == "cuda":
        peaks["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return peaks


def _processor() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
