import pytest

from tests.commands.runner import WINDOW, attncc

BROKEN = "attn 1\nattention broken:\n  mask = q_idx >= kv_idy\n  score = scor\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.attn").write_text(WINDOW)
    (tmp_path / "broken.attn").write_text(BROKEN)
    (tmp_path / "latin.attn").write_bytes("# größe\n".encode("latin-1"))


@pytest.mark.usefixtures("files")
def test_variants_without_mistakes_are_ok():
    finished = attncc("check", "good.attn")
    assert (finished.code, finished.out, finished.err) == (0, "ok  good.attn\n", "")


@pytest.mark.usefixtures("files")
def test_every_mistake_of_every_file_is_drawn(golden):
    finished = attncc("check", "broken.attn", "good.attn", "missing.attn", "latin.attn")
    assert finished.code == 1
    assert finished.out + finished.err == golden


@pytest.mark.usefixtures("files")
def test_json_has_the_places():
    good, broken = attncc("check", "good.attn", "broken.attn", "--json").json
    assert good == {"target": "good.attn", "ok": True, "errors": []}
    first, second = broken["errors"]
    assert first["message"] == "unknown name `kv_idy`"
    assert first["hint"] == "did you mean `kv_idx`?"
    assert (first["file"], first["line"], first["column"], first["end_column"]) == ("broken.attn", 3, 19, 25)
    assert (second["line"], second["column"]) == (4, 11)
