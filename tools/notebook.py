"""Runs examples/first_steps.ipynb and keeps its outputs in it: ``python -m tools.notebook`` (extra ``release``).

What differs from run to run without a reason (times, warnings of libraries) is not kept, and a picture is kept once.
"""

from __future__ import annotations

from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples/first_steps.ipynb"


def main() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, record_timing=False, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
