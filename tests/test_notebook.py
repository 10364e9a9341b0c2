"""In notebooks: a report shows itself, errors are diagnoses, and the tutorial runs in a kernel of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import five_reports
import nbformat
import pytest

from adapter_doctor.notebook import in_cell, told_in_cell
from adapter_doctor.report import AdapterError

TUTORIAL = Path(__file__).resolve().parent.parent / "configs" / "tutorial.ipynb"


@pytest.mark.parametrize("name", sorted(five_reports.CHANGES))
def test_report_shows_itself_as_html_and_as_text(name: str) -> None:
    report = five_reports.report(name)
    bundle = report._repr_mimebundle_(include=None, exclude=None)

    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == str(report)
    assert report.verdict in bundle["text/html"]
    assert not any(one in bundle["text/html"] for one in ("<script", "<html", "http-equiv", "<body"))


def test_error_is_a_diagnosis_where_there_is_no_cell() -> None:
    report = five_reports.report("wrong-base")

    assert AdapterError(report)._render_traceback_() == str(report).splitlines()


def test_nothing_is_a_cell_outside_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_cell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_cell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    assert in_cell()


def test_progress_of_a_user_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapter_doctor.notebook.in_cell", lambda: True)
    said: list[str] = []

    def work(progress: Any = None) -> None:
        progress("half way")

    told_in_cell(work)(progress=said.append)

    assert said == ["half way"]


@pytest.fixture(scope="module")
def executed() -> Any:
    from nbclient import NotebookClient

    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    updates: list[dict[str, Any]] = []

    class Client(NotebookClient):  # type: ignore[misc]  # untyped; it keeps what is written over too: progress is gone from the notebook in the end
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] in ("display_data", "update_display_data"):
                updates.append(msg["content"]["data"])
            return super().process_message(msg, cell, cell_index)

    Client(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(TUTORIAL.parent)}}
    ).execute()
    return SimpleNamespace(cells=[one for one in notebook.cells if one.cell_type == "code"], updates=updates)


def outputs(cell: Any, kind: str = "execute_result") -> list[Any]:
    return [one for one in cell.outputs if one.output_type == kind]


@pytest.mark.filterwarnings("ignore")  # jupyter_client's own
def test_tutorial_shows_both_diagnoses(executed: Any) -> None:
    sound, broken = (outputs(executed.cells[at])[0].data for at in (1, 2))

    assert "COMPATIBLE  16 of 16 tensors landed" in sound["text/plain"]
    assert sound["text/html"].count('role="img"') == 8
    assert "norm of the update" in sound["text/html"]
    assert "AD216 wrapper-in-keys" in broken["text/plain"]
    assert "'landed': 0" in outputs(executed.cells[3])[0].data["text/plain"]


@pytest.mark.filterwarnings("ignore")
def test_tutorial_takes_a_model_in_memory_and_loads(executed: Any) -> None:
    assert outputs(executed.cells[4])[0].data["text/plain"] == "'compatible'"
    assert outputs(executed.cells[5])[0].data["text/plain"] == "'PeftModelForCausalLM'"


@pytest.mark.filterwarnings("ignore")
def test_tutorial_ends_in_a_diagnosis_in_place_of_a_traceback(executed: Any) -> None:
    (error,), shown = outputs(executed.cells[6], "error"), outputs(executed.cells[6], "display_data")

    assert error.ename == "AdapterError"
    assert [line for line in error.traceback if "File" in line] == []
    assert error.traceback[0].startswith("AdapterError: incompatible: AD216 wrapper-in-keys")
    assert any("AD216" in one.data.get("text/html", "") for one in shown)


@pytest.mark.filterwarnings("ignore")
def test_progress_is_told_below_the_cell_and_gone_in_the_end(executed: Any) -> None:
    told = [one["text/plain"] for one in executed.updates if one.get("text/html", "").startswith("<em>")]
    left = [one for one in outputs(executed.cells[1], "display_data") if one.data.get("text/plain")]

    assert told
    assert left == []
