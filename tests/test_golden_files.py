"""Golden files: equal to exactly their text, made and changed only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden_files import Golden, golden_path


def test_a_golden_file_equals_exactly_its_text(tmp_path):
    file = Golden(tmp_path / "a.txt", update=False)
    file.path.write_bytes(b"one\ntwo\n")
    assert file == "one\ntwo\n"
    assert "one\ntwo\n" == file  # noqa: SIM300  # the order in which tests write it
    assert file != "one\ntwo"
    assert file != "one\r\ntwo\r\n"


def test_a_missing_golden_file_says_how_to_make_it(tmp_path):
    with pytest.raises(pytest.fail.Exception, match=r"a\.txt is missing: run this test with --update-golden"):
        Golden(tmp_path / "a.txt", update=False).check("text")


def test_a_failure_shows_a_unified_diff(tmp_path):
    file = Golden(tmp_path / "a.txt", update=False)
    file.path.write_text("one\ntwo\n")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)@@ -1,2 \+1,2 @@.*-two\n\+three\n.*--update-golden"):
        file.check("one\nthree\n")


def test_update_writes_the_bytes_of_the_text(tmp_path):
    file = Golden(tmp_path / "deep" / "a.txt", update=True)
    file.check("é\r\n")
    assert file.path.read_bytes() == "é\r\n".encode()


def test_a_test_with_several_texts_names_them(tmp_path):
    file = Golden(tmp_path / "test_a.txt", update=False)
    assert file("forward").path == tmp_path / "test_a" / "forward.txt"
    assert file("forward.py").path == tmp_path / "test_a" / "forward.py"


def test_the_path_mirrors_the_test_file():
    tests = Path("/tests")
    found = golden_path(tests / "emit" / "test_render.py", "test_it[causal-a/b c]", tests)
    assert found == tests / "golden" / "emit" / "test_render" / "test_it-causal-a-b-c.txt"
