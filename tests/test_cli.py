"""The command line: the table of sub-commands, what it imports, how errors reach the shell.

What each sub-command does is tested beside the module that implements it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lfvila_hf.cli as cli

CLI_FILE = Path(cli.__file__)
# Seconds of processor time; 0.09 was measured, 6 to 8 with the package imported.
AT_ONCE = 0.3


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add sub-commands that end in each kind of exception."""
    kinds = (
        "value_error",
        "os_error",
        "interrupt",
        "bug",
        "named_extra",
        "missing_module",
        "broken_import",
        "no_device",
    )
    for name in kinds:
        monkeypatch.setitem(cli.COMMANDS, name, cli.Command(f"{__name__}:raise_{name}", "fail"))


def raise_value_error(arguments: list[str]) -> None:
    raise ValueError("num_frames is 30, expected a multiple of num_clips = 4")


def raise_os_error(arguments: list[str]) -> None:
    raise FileNotFoundError(2, "No such file or directory", "a.mp4")


def raise_interrupt(arguments: list[str]) -> None:
    raise KeyboardInterrupt


def raise_bug(arguments: list[str]) -> None:
    raise RuntimeError("a bug")


def raise_named_extra(arguments: list[str]) -> None:
    raise ImportError("plots need matplotlib: pip install 'lfvila_hf[plots]'")


def raise_missing_module(arguments: list[str]) -> None:
    raise ModuleNotFoundError("No module named 'gradio'", name="gradio.blocks")


def raise_broken_import(arguments: list[str]) -> None:
    raise ImportError("cannot import name 'x' from 'lfvila_hf'", name="lfvila_hf")


def raise_no_device(arguments: list[str]) -> None:
    import torch

    torch.zeros(1, device="cuda")


def test_help_lists_every_command_and_imports_no_heavy_library() -> None:
    program = (
        f"import runpy, sys\nsys.argv = ['lfvila-hf', '--help']\n"
        f"try:\n    runpy.run_path({str(CLI_FILE)!r}, run_name='__main__')\n"
        f"except SystemExit as end:\n    assert not end.code\n"
        f"heavy = {{'torch', 'transformers', 'datasets', 'numpy', 'av'}} & set(sys.modules)\n"
        f"assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in run.stdout
        assert command.summary in run.stdout


def test_the_console_script_reaches_the_table_without_the_package() -> None:
    script = CLI_FILE.parents[1] / "lfvila_hf_cli.py"
    program = (
        f"import sys\nsys.path.insert(0, {str(script.parent)!r})\nimport lfvila_hf_cli\n"
        f"sys.argv = ['lfvila-hf', 'version']\nassert lfvila_hf_cli.main() == 0\n"
        f"assert not {{'lfvila_hf', 'torch', 'transformers'}} & set(sys.modules)\n"
        f"sys.argv = ['lfvila-hf', '--help']\nlfvila_hf_cli.main()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(cli.package_version("lfvila_hf")) and "usage: lfvila-hf" in run.stdout
    scripts = (script.parent / "setup.cfg").read_text("utf-8")
    assert "lfvila-hf = lfvila_hf_cli:main" in scripts and "py_modules = lfvila_hf_cli" in scripts


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert not end.value.code
    assert f"usage: lfvila-hf {name}" in capsys.readouterr().out


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == cli.package_version("lfvila_hf") != "not installed"
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"lfvila-hf {printed}"


def test_env_names_the_libraries_that_decide_results(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import transformers

    assert cli.main(["env"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert lines["transformers"] == transformers.__version__
    assert "not installed" not in lines.values()


def test_a_missing_package_is_reported_not_raised() -> None:
    assert cli.package_version("a-distribution-that-nobody-made") == "not installed"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["version", "too", "much"], ["--no-such-option"]])
def test_wrong_arguments_end_in_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: lfvila-hf" in capsys.readouterr().err


def test_the_bare_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "commands:" in capsys.readouterr().out


def run_script(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the console script in a fresh process; also returns its seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = CLI_FILE.parents[1] / "lfvila_hf_cli.py"
    run = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=120, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return run, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 0, "usage: lfvila-hf"),
        (("serch",), 2, "unknown command 'serch'. Did you mean 'search'?"),
        (("push", "no-such-folder", "org/name"), 1, "lfvila-hf push: error: no-such-folder is not a folder"),
        (("push", ".", "org/name", "--licence", "mit"), 2, "Did you mean '--license'?"),
        (("push", "."), 2, "required: REPO"),
        (("push", ".", "a/b/c"), 1, "the repository is 'a/b/c', expected a name such as org/name"),
        (("plot", "losses", ".", "--output", "a.png"), 1, "there is no trainer_state.json in . or in its checkpoints"),
        (("corpus", "sttas"), 2, "Did you mean 'stats'?"),
        (("corpus", "build", "--overlaps", "dorp"), 2, "lfvila-hf corpus build: error: argument --overlaps"),
        (("prepare", "didmo"), 2, ". Did you mean 'didemo'?"),
        (("version", "--traceback"), 2, "--traceback goes before the command: lfvila-hf --traceback version"),
        (("check-videos", "nowhere"), 1, "lfvila-hf check-videos: error: there is no file or folder nowhere\n"),
        (("search", "nowhere", "A man rides."), 1, "there is no index in nowhere; `lfvila-hf index"),
        (("search", ".", "A man rides."), 1, "there is no index in .; `lfvila-hf index"),
        (("search", ".", "..."), 1, "the story is empty"),
        (("search", ".", "A man rides.", "--top", "0"), 1, "--top must be at least 1, got 0"),
        (("search", ".", "--video", "a.mp4", "--texts", "nowhere"), 1, "--texts nowhere: no such file"),
        (("app", "."), 1, "there is no index in .; `lfvila-hf index"),
        (("index", "nowhere", "--model", "m", "--output", "o"), 1, "there is no folder nowhere"),
        (("index", ".", "--model", "./nowhere", "--output", "o"), 1, "--model ./nowhere: there is no such folder"),
        (("index", ".", "--model", "m", "--output", "o", "--workers", "0"), 1, "--workers must be at least 1, got 0"),
        (("plot", "losses", "nowhere", "--output", "a.png"), 1, "lfvila-hf plot losses: error: there is no file"),
        (
            tuple("convert --checkpoint a --original-config nowhere.yaml --task retrieval --output-dir o".split()),
            1,
            "--original-config nowhere.yaml: no such file",
        ),
        (("corpus", "build", "--metadata", "no-*.jsonl", "--output-dir", "o"), 1, "there is no input file no-*.jsonl"),
        (("corpus", "cut", "nowhere", "--output-dir", "o"), 1, "there is no corpus or metadata file nowhere"),
        (("corpus", "cut", ".", "--output-dir", "o"), 1, "no videos were given"),
        (("corpus", "from-subtitles", "nowhere", "--output-dir", "o"), 1, "there is no folder nowhere"),
        (("corpus", "stats", "nowhere"), 1, "lfvila-hf corpus stats: error: there is no corpus in nowhere"),
        (("check-videos", "."), 1, "no file was found in ."),
        (("check-videos", "/", "--workers", "0"), 1, "--workers must be at least 1, got 0"),
        (("check-videos", "/", "--max-seconds", "nan"), 1, "--max-seconds must be above 0, got nan"),
        (
            ("index", ".", "--model", "m", "--output", "o", "--overlap", "1.5"),
            1,
            "--overlap must be in 0 to 0.95, got 1.5",
        ),
        (
            ("index", ".", "--model", "m", "--output", "o", "--segment-seconds", "0"),
            1,
            "--segment-seconds must be above 0",
        ),
        (
            tuple("corpus from-subtitles . --output-dir o --min-clips 0".split()),
            1,
            "--min-clips must be at least 1, got 0",
        ),
        (tuple("corpus from-subtitles . --output-dir o --test inf".split()), 1, "--test must be in 0 to 1, got inf"),
        (tuple("corpus cut . --videos . --output-dir o --crf 99".split()), 1, "--crf must be in 0 to 51, got 99"),
        (("prepare", "lvu", "--source", ".", "--videos", "nowhere", "--output", "o"), 1, "there is no such folder"),
        *(((name, "--help"), 0, f"usage: lfvila-hf {name}") for name in sorted(cli.COMMANDS)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_help_and_wrong_arguments_are_answered_at_once(
    words: tuple[str, ...], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, seconds = run_script(*words)
    assert run.returncode == status, run.stderr
    assert message in run.stdout + run.stderr
    assert status != 1 or run.stderr.count("\n") == 1
    assert seconds < AT_ONCE
    assert not list(tmp_path.iterdir()), "a wrong argument left a file behind"


@pytest.mark.usefixtures("failing_command")
def test_a_missing_extra_is_one_line_that_works_from_a_clone_and_from_an_index(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = CLI_FILE.parents[1]
    assert cli.main(["named_extra"]) == 1
    advice = f"plots need matplotlib. Install the extra 'plots': pip install -e '{root}[plots]'"
    assert capsys.readouterr().err == f"lfvila-hf named_extra: error: {advice}\n"
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "lfvila_hf" / "cli.py"))
    assert cli.main(["missing_module"]) == 1
    assert capsys.readouterr().err.endswith(
        "the Python package gradio is not installed. Install the extra 'app': pip install 'lfvila_hf[app]'\n"
    )
    with pytest.raises(ImportError, match="cannot import name"):
        cli.main(["broken_import"])


@pytest.mark.usefixtures("failing_command")
def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert cli.main(["no_device"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("lfvila-hf no_device: error: the device cannot be used: ") and printed.count("\n") == 1


def test_choices_and_defaults_written_for_the_help_are_those_of_the_package() -> None:
    from lfvila_hf.conversion import checkpoints, convert_command, released
    from lfvila_hf.corpus import corpus_command, cutting, from_subtitles, plan
    from lfvila_hf.prepare import prepare_command, prepare_task

    assert convert_command.TASKS == tuple(released.TASKS) and convert_command.DTYPES == tuple(checkpoints.DTYPES)
    assert convert_command.DEFAULT_TOKENIZER == checkpoints.DEFAULT_TOKENIZER
    assert prepare_command.TASKS == prepare_task.TASKS and prepare_command.NUM_ANSWERS == prepare_task.NUM_ANSWERS
    parse = corpus_command.build_parser().parse_args
    build = parse(["build", "--metadata", "m", "--output-dir", "o"])
    assert corpus_command.build_parameters(build) == plan.BuildParameters()
    cut, clip = parse(["cut", "c", "--output-dir", "o"]), cutting.CutParameters()
    assert (cut.fps, cut.height, cut.crf, cut.preset) == (clip.fps, clip.height, clip.crf, clip.preset)
    assert (cut.gop_seconds, cut.max_seconds) == (clip.gop_seconds, clip.max_seconds)
    spoken, rules = parse(["from-subtitles", "v", "--output-dir", "o"]), from_subtitles.SentenceRules()
    found = (spoken.min_seconds, spoken.max_clip_seconds, spoken.max_clip_words, spoken.pause)
    assert found == (rules.min_seconds, rules.max_seconds, rules.max_words, rules.pause)


def test_extras_that_are_recommended_exist() -> None:
    text = (CLI_FILE.parents[1] / "setup.cfg").read_text("utf-8")
    for extra in cli.EXTRAS.values():
        assert f"\n{extra} =\n" in text


def test_options_of_a_command_reach_it_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []
    monkeypatch.setattr(cli, "run_version", received.append)
    words = ["--version", "--traceback", "-x", "--", "a b", "--help"]
    assert cli.main(["version", *words]) == 0
    assert received == [words]


@pytest.mark.usefixtures("failing_command")
def test_what_a_user_can_put_right_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["value_error"]) == 1
    message = "lfvila-hf value_error: error: num_frames is 30, expected a multiple of num_clips = 4\n"
    assert capsys.readouterr().err == message
    assert cli.main(["os_error"]) == 1
    assert "a.mp4" in capsys.readouterr().err


@pytest.mark.usefixtures("failing_command")
def test_traceback_option_shows_where_an_error_came_from() -> None:
    with pytest.raises(ValueError, match="num_frames is 30"):
        cli.main(["--traceback", "value_error"])


@pytest.mark.usefixtures("failing_command")
def test_a_bug_is_never_reduced_to_one_line() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["bug"])


@pytest.mark.usefixtures("failing_command")
def test_an_interrupt_ends_in_status_130() -> None:
    assert cli.main(["interrupt"]) == 130


def test_a_reader_that_has_gone_is_no_error() -> None:
    program = (
        "import sys\nfrom lfvila_hf import cli\n"
        "cli.run_version = lambda arguments: print('x' * 10**6)\n"
        "sys.exit(cli.main(['version']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=120) == 141, errors
    assert errors == ""


def test_summaries_fit_the_help_page() -> None:
    assert cli.COMMANDS, "the table is empty, so nothing above was tested"
    for name, command in cli.COMMANDS.items():
        assert len(command.summary) < 90 and not command.summary.endswith("."), name
