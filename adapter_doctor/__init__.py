"""adapter-doctor says whether a PEFT adapter works on a base model, and if not, what is wrong and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapter_doctor.doctor import check, inspect, load, verify_merge
    from adapter_doctor.errors import DoctorError
    from adapter_doctor.explanation import explain
    from adapter_doctor.fixing import fix
    from adapter_doctor.inspection import Inspection
    from adapter_doctor.publish.gate import upload
    from adapter_doctor.publish.guard import guard
    from adapter_doctor.repair.outcome import Repair
    from adapter_doctor.report import AdapterError, Report
    from adapter_doctor.resumption import resume
    from adapter_doctor.under_traceback import explaining

__version__ = "0.1.0"
__all__ = [
    "AdapterError", "DoctorError", "Inspection", "Repair", "Report", "check", "explain", "explaining", "fix", "guard",
    "inspect", "load", "resume", "upload", "verify_merge",
]  # fmt: skip

_HOMES = {
    "check": "doctor", "explain": "explanation", "explaining": "under_traceback", "fix": "fixing", "guard": "publish.guard", "inspect": "doctor", "load": "doctor",
    "resume": "resumption", "upload": "publish.gate", "verify_merge": "doctor", "DoctorError": "errors",
    "Inspection": "inspection", "Repair": "repair.outcome",
    "AdapterError": "report", "Report": "report",
    "load_ipython_extension": "under_traceback", "unload_ipython_extension": "under_traceback",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import adapter_doctor` itself costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
