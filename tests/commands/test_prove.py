import pytest

from attncc.analysis.certificate import prove
from attncc.ir import print_spec
from attncc.pipeline import canonicalize
from attncc.report.claims import claims_dict
from tests.analysis.test_gallery_masks import MASKS, SPECS
from tests.commands.runner import PACKED, PYTHON, WINDOW, attncc

EMPTY = "attn 1\nattention empty(w: int = 4):\n  mask = q_idx >= kv_idx and q_idx - kv_idx < 0 - w\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "window.attn").write_text(WINDOW)
    (tmp_path / "packed.attn").write_text(PACKED)
    (tmp_path / "empty.attn").write_text(EMPTY)
    (tmp_path / "functions.py").write_text(PYTHON)


@pytest.mark.usefixtures("files")
def test_every_claim_has_a_reason_that_adds_up():
    finished = attncc("prove", "window.attn", "--strict")
    assert finished.code == 0
    assert finished.out.startswith("window: 6 claims, 6 proven; ")
    assert "keys outside of the ranges are hidden from the tile's queries" in finished.out
    assert "1 x  q_min >= kv_idx + window" in finished.out
    assert finished.err == ""


@pytest.mark.usefixtures("files")
def test_json_has_every_case_of_every_proof():
    (found,) = attncc("prove", "packed.attn", "--json").json
    assert found["kind"] == "tabulated"
    assert found["proven"]
    assert not found["refuted"]
    assert found["pairs"] > 5000
    for claim in found["claims"]:
        assert claim["verdict"] == "inequalities"
        assert claim["witness"] is None
        assert all(case["total"] < 0 and case["sum"] for case in claim["cases"])


@pytest.mark.usefixtures("files")
def test_python_is_proven_like_text():
    text, python = (attncc("prove", target, "--json").json[0] for target in ("window.attn", "functions.py:near"))
    assert [claim["verdict"] for claim in text["claims"]] == [claim["verdict"] for claim in python["claims"]]
    assert text["claims"] == python["claims"]


@pytest.mark.usefixtures("files")
def test_a_mask_without_keys_is_warned_of():
    finished = attncc("prove", "empty.attn")
    assert finished.code == 0  # w = -100 would show keys: the claims hold all the same
    assert "no row of this mask has a key" in finished.err
    assert "with w = 4 (proven)" in finished.err
    assert "no row" not in attncc("prove", "empty.attn", "-p", "w=-100").err


def test_a_claim_that_is_only_tested_fails_where_proofs_are_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "tested.attn"
    path.write_text(print_spec(SPECS["context_sharding"]))
    assert attncc("prove", path, "--strict").code == 0
    monkeypatch.setattr("attncc.analysis.certificate._Checker._by_intervals", lambda *_: None)
    relaxed = attncc("prove", path)
    assert relaxed.code == 0
    assert "tested, not proven" in relaxed.out
    assert attncc("prove", path, "--strict").code == 1


@pytest.mark.usefixtures("files")
def test_a_refuted_claim_fails_with_its_numbers(monkeypatch):
    import attncc.analysis.certificate as certificate
    from tests.analysis.test_certificate import CAUSAL, KV_LEN, Q_MAX, Op, make, wrong

    right = certificate.summarize_mask(CAUSAL)
    monkeypatch.setattr(certificate, "summarize_mask", lambda mask: wrong(right, stop=make(Op.MIN, Q_MAX, KV_LEN)))
    finished = attncc("prove", "functions.py:masks.causal")
    assert finished.code == 1
    assert "1 REFUTED" in finished.out
    assert "refuted: b = " in finished.out


@pytest.mark.parametrize("name", MASKS)
def test_every_claim_about_the_gallery_is_proven(name):
    found = prove(canonicalize(SPECS[name]).mask)
    assert found.is_proven, [(c.statement, c.verdict.value, c.witness) for c in found.claims if not c.is_proven]
    assert claims_dict(name, found)["pairs"] == found.pairs > 1000
