import resource
import subprocess
import sys

import pytest

from attncc import __version__
from attncc.commands.app import VERBS
from attncc.errors import InputError
from tests.commands.runner import WINDOW, attncc


def test_the_version_is_printed():
    assert attncc("--version").out == f"attncc {__version__}\n"


def test_help_lists_every_verb_with_an_example():
    printed = attncc("--help").out
    for verb in VERBS:
        assert f"attncc {verb.__name__}" in printed or verb.__name__ in printed
    assert "attncc explain window.attn" in printed
    for verb in VERBS:
        assert f"attncc {verb.__name__}" in attncc(verb.__name__, "--help").out


def test_without_a_verb_the_help_is_shown():
    finished = attncc()
    assert finished.code == 2
    assert "attncc show window.attn" in finished.out + finished.err


def test_a_traceback_is_shown_on_request():
    with pytest.raises(InputError):
        attncc("--traceback", "show", "nowhere.attn")


@pytest.mark.usefixtures("fresh_settings")
def test_the_debug_log_shows_tracebacks_too(monkeypatch):
    monkeypatch.setenv("ATTNCC_LOG", "debug")
    with pytest.raises(InputError):
        attncc("show", "nowhere.attn")


def run(*command, **options):
    return subprocess.run([sys.executable, "-m", "attncc", *command], capture_output=True, text=True, **options)


def test_a_real_process_prints_text_and_exits_with_0(tmp_path):
    (tmp_path / "window.attn").write_text(WINDOW)
    finished = run("show", "window.attn", cwd=tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, WINDOW, "")


def test_a_real_process_draws_errors_on_standard_error_without_colour(tmp_path):
    finished = run("show", "nowhere.attn", cwd=tmp_path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == "InputError: there is no file nowhere.attn\nhint: this folder holds no .attn file\n"


@pytest.mark.parametrize("name", ["sliding_tile", "alibi", "causal_documents"])
def test_showing_a_gallery_file_takes_less_than_a_second(name, repository):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = run("show", str(repository / "examples" / "gallery" / f"{name}.attn"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert finished.returncode == 0
    # the processor's time: the machine may be busy with other tests
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_closed_pipe_is_no_error(tmp_path):
    (tmp_path / "window.attn").write_text(WINDOW)
    command = f"{sys.executable} -m attncc info | head -1; {sys.executable} -m attncc show window.attn | true"
    finished = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.stderr == ""


def test_showing_a_file_imports_neither_torch_nor_matplotlib(tmp_path):
    (tmp_path / "window.attn").write_text(WINDOW)
    program = (
        "import sys; from attncc.commands import app; app(['show', 'window.attn'], standalone_mode=False);"
        "print(sorted({'torch', 'matplotlib', 'numpy', 'sympy', 'triton'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout == f"{WINDOW}[]\n"
