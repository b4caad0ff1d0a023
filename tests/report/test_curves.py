from attncc.report.curves import save_curves


def test_two_curves_are_drawn_even_where_they_are_equal(tmp_path):
    for second in ([3.0, 2.0, 1.0], [3.0, 2.0, 1.5]):
        path = save_curves({"ours": [3.0, 2.0, 1.0], "dense": second}, "training", "loss", tmp_path / "loss.png")
        assert path.read_bytes().startswith(b"\x89PNG")
