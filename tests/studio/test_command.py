"""``c4d studio`` itself: what it refuses before anything is served."""

from __future__ import annotations

import socket
import sys

import pytest

from c4d.cli.main import main


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    for name in [
        name for name in sys.modules if name.startswith(("gradio", "c4d.studio.pages.app", "c4d.studio.pages"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["studio"]) == 3
    said = capsys.readouterr().err
    assert "gradio cannot be imported" in said and "pip install 'c4d[studio]'" in said


def test_what_cannot_be_served_is_one_line(capsys, tmp_path):
    pytest.importorskip("gradio", reason="pip install 'c4d[studio]'")
    assert main(["studio", "--port", "0", "--out", str(tmp_path)]) == 2
    assert "port is 0; allowed are whole numbers from 1 to 65535" in capsys.readouterr().err
    assert main(["studio", "--model", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "none" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["studio", "--port", str(port), "--out", str(tmp_path)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
