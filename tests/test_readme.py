"""What the README shows works as it stands there."""

import re

import pytest

import attncc


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_first_example_runs_and_gives_every_gradient(readme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks(readme, "python")[0], "README.md", "exec"), names)
    assert all(names[name].grad is not None for name in ("q", "k", "v", "slopes"))
    assert (tmp_path / "window.png").is_file()
    assert "tiles" in capsys.readouterr().out


def test_the_text_means_the_same_as_the_functions(readme, capsys):
    import torch

    names = {}
    source = blocks(readme, "python")[0].partition("print(")[0]
    exec(compile(source, "README.md", "exec"), names)
    q, k, v = (torch.randn(1, 8, 300, 16) for _ in range(3))
    text = attncc.loads(blocks(readme, "text")[0])
    torch.testing.assert_close(names["attention"](q, k, v), text(q, k, v, slopes=names["slopes"]))


def test_every_page_that_is_linked_exists(readme, repository):
    for page in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)|src=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
            link = "".join(target)
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"
