"""The README's promises, kept: its commands are cut out of README.md and run.

Only what a reader has to replace is replaced (`places`). What pip would install must already be here, in the ranges
that the package declares, because tests reach no registry: `pip install` runs as `pip install --dry-run --no-index`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from llava.pocket import find
from llava.serve.service.server import free_port
from tests.support.browser import OpenedPage
from tests.support.fake_judge import FakeJudge, judging
from tests.support.markdown import HEADING, Block, blocks
from tests.support.reviews import make_question_set, read_lines
from tests.support.science_qa import make_science_qa
from tests.support.serving import Service
from tests.support.terminal import Terminal
from tests.support.vqa import IMAGES, write_questions
from tests.support.vqa import records as records_of
from tests.support.warm_python import warm_environment

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
README = REPOSITORY / "README.md"

BLOCKS = blocks(README)


def commands_under(section: str) -> list[str]:
    return [
        command
        for block in BLOCKS
        if section in block.sections and block.language == "Shell"
        for command in block.commands()
    ]


def blocks_in(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def review_places(folder: Path) -> dict[str, str]:
    """The original's 90 questions, made up, and what a reader adds to them."""
    files = make_question_set(folder / "qa90", images=30)
    data = "playground/data/coco2014_val_qa_eval"
    return {
        f"{data}/qa90_questions.jsonl": str(files["questions"]),
        f"{data}/qa90_gpt4_answer.jsonl": str(files["reference"]),
        "llava/eval/table/caps_boxes_coco2014_val_80.jsonl": str(files["context"]),
        "/path/to/answer-file-2.jsonl": str(files["ours"]),
        "/path/to/reviews": str(folder / "reviews"),
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """What a reader replaces, by what the tests have: tiny checkpoints with their tower inside, small images."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("llava-v0-tiny", "llava-v1.5-tiny"):
        shutil.copytree(DATA / name, folder / name)
        shutil.copytree(DATA / "clip-tiny", folder / name / "clip-tiny")
    science_qa = make_science_qa(folder / "ScienceQA", 4)
    splits = {name: ["1", "2", "3", "4"] for name in ("train", "val", "minival", "test", "minitest")}
    (science_qa / "pid_splits.json").write_text(json.dumps(splits))
    return {
        "/path/to/ScienceQA/data/scienceqa": str(science_qa),
        "/path/to/LLaVA-13b-v0-science_qa": str(find("tiny")),
        "/path/to/questions.jsonl": str(write_questions(folder)),
        "/path/to/coco2014_val": str(IMAGES),
        "/path/to/answers": str(folder / "answers"),
        "/path/to/LLaVA.git": str(REPOSITORY),
        "/path/to/LLaVA-13B-v0": str(folder / "llava-v0-tiny"),
        "/path/to/llava-v1.5-7b": str(folder / "llava-v1.5-tiny"),
        "/path/to/clip-vit-large-patch14": str(DATA / "clip-tiny"),
        "/path/to/llama-13b": str(DATA / "llama-vicuna-tiny"),
        "/path/to/llama-7b": str(DATA / "llama-vicuna-tiny"),
        "/path/to/LLaVA-13B-delta-v0": str(DATA / "llava-v0-tiny-delta"),
        "/path/to/LLaVA-7B-delta-v0": str(DATA / "llava-v0-tiny-delta"),
        "/output/path/to": str(folder / "made"),
        "https://llava-vl.github.io/static/images/view.jpg": str(DATA / "images" / "land.png"),
        "/path/to/first.jpg": str(DATA / "images" / "land.png"),
        "/path/to/second.jpg": str(DATA / "images" / "port.png"),
        **review_places(folder),
    }


@pytest.fixture(scope="module")
def shell(places):
    """Runs a command of the README in bash, as a reader would in an activated environment."""

    def run(command: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        for place in sorted(places, key=len, reverse=True):
            command = command.replace(place, places[place])
        assert "path/to" not in command, "a place that this test has nothing for"
        assert "https://" not in command, "an address that this test has nothing for"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=cwd,
            env=warm_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's code in a folder whose `./checkpoints` is ours."""
    for name in ("llava", "scripts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def test_the_sections_stand_in_the_order_that_readers_know():
    top = [line[3:] for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    known = ["Install", "LLaVA Weights", "Serving", "Evaluation", "Fine-tuning"]
    assert [section for section in top if section in known] == known


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("file", [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))])
def test_links_to_files_and_sections_lead_somewhere(file: Path):
    text = file.read_text(encoding="utf-8")
    anchors = {anchor(match.group(2)) for match in map(HEADING.match, text.splitlines()) if match}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif "://" not in target:
            assert (file.parent / target.partition("#")[0]).exists(), target


# LLaVA Weights


def test_the_weights_commands_run_one_after_the_other_and_the_result_answers(shell, places):
    commands = commands_under("LLaVA Weights")
    assert sum("llava.model.apply_delta" in command for command in commands) == 2
    for command in commands:
        done = shell(command)
        assert done.returncode == 0, done.stderr
    made = f"{places['/output/path/to']}/LLaVA-7B-v0"
    ask = "python -m llava.eval.run_llava --image-file /path/to/first.jpg --query What? --temperature 0"
    ask += " --max-new-tokens 24 --model-name"
    ours = shell(f"{ask} {made} --vision-tower /path/to/clip-vit-large-patch14")
    original = shell(f"{ask} /path/to/LLaVA-13B-v0")
    assert ours.stdout == original.stdout
    assert ours.stdout.strip()
    exported = shell(f"{ask} {made}-hf")
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip()


# Install


def is_pip_install(command: str) -> bool:
    return command.startswith(("pip install", "uv pip install"))


def declared_extras() -> dict[str, set[str]]:
    """The names of the packages that each extra of this package brings."""
    extras: dict[str, set[str]] = {name: set() for name in metadata.metadata("llava").get_all("Provides-Extra") or []}
    for line in metadata.requires("llava") or []:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line):
            extras[match.group(2)].add(match.group(1))
    return extras


def optional_parts(command: str) -> set[str]:
    """The packages of a `pip install` that only an extra brings; empty for a required part."""
    words = [word for word in shlex.split(command.partition("install")[2], comments=True) if not word.startswith("-")]
    extras = declared_extras()
    everything = set().union(*extras.values())
    named = {word for word in words if word in everything}
    for word in words:
        if match := re.fullmatch(r"\.\[([\w-]+)\]", word):
            assert match.group(1) in extras, f"pyproject.toml has no extra {match.group(1)!r}"
            named |= extras[match.group(1)]
    return named


PIP_COMMANDS = sorted({command for command in commands_under("Install") if is_pip_install(command)})


@pytest.mark.parametrize("command", [command for command in PIP_COMMANDS if not optional_parts(command)])
def test_what_an_install_command_brings_is_satisfied_here(command, shell):
    program, _, rest = command.partition("pip install")
    if program:
        done = shell(f"python -m uv pip install --dry-run --offline --python {sys.executable} {rest}")
    else:
        done = shell(
            f"python -m pip install --dry-run --no-index --no-build-isolation --disable-pip-version-check {rest}"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    brings = re.findall(r"Would install (.*)", done.stdout)
    assert all(line.startswith("llava-") and " " not in line for line in brings), "only llava itself, once more"


def test_optional_install_commands_name_parts_that_the_package_declares():
    optional = [command for command in PIP_COMMANDS if optional_parts(command)]
    assert {part for command in optional for part in optional_parts(command)} == {"bitsandbytes", "ninja", "flash-attn"}


def test_the_other_install_commands_run(shell, tmp_path: Path):
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout, nothing to clone")
    commands = [command for command in commands_under("Install") if not is_pip_install(command)]
    assert commands[0].startswith("git clone")
    done = shell("\n".join(commands), cwd=tmp_path)  # one shell, because of `cd`
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "LLaVA" / "pyproject.toml").exists()
    assert "in the tested range" in done.stdout, "llava doctor's verdict"


# The two commands at the top, CLI inference, Python


def test_the_first_command_is_make_demo_and_asks_the_embedded_model(shell):
    assert BLOCKS[0].commands() == ["make demo"]
    planned = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    asks = re.findall(r"^\S+python (-m llava\.eval\.run_llava .*)$", planned, flags=re.MULTILINE)
    assert len(asks) == 2
    for ask in asks:
        done = shell(f"python {ask}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), "an answer"
        assert "tiny" in done.stderr, "says which model answers"


def ask_commands() -> list[str]:
    first = [command for command in BLOCKS[1].commands() if not is_pip_install(command)]
    return [*first, *commands_under("CLI inference")]


@pytest.mark.parametrize("command", ask_commands())
def test_a_command_line_question_gets_an_answer_and_nothing_else_on_stdout(command, shell):
    limited = command if "--max-new-tokens" in command else f"{command} --max-new-tokens 24"
    done = shell(limited)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an answer"
    assert "Traceback" not in done.stderr


def test_the_chat_commands_chat_on_a_terminal_and_answer_once(places, shell):
    conversation, once = commands_under("Command line chat")
    for place in sorted(places, key=len, reverse=True):
        conversation = conversation.replace(place, places[place])
    with Terminal(*shlex.split(conversation)[1:], "--no-history", "--max-new-tokens", "8") as terminal:
        terminal.enter("What is in the picture?", prompt=r"^\[1 image\] > $")
        terminal.wait_for(r"cut at 8 tokens")
        terminal.enter("/quit")
        assert terminal.wait() == 0
    done = shell(f"{once} --max-new-tokens 24")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"].strip()


OFFLINE_EXAMPLES = [block for block in blocks_in("python") if "localhost" not in block.text]


@pytest.mark.parametrize("block", OFFLINE_EXAMPLES, ids=lambda block: f"line {block.line}")
def test_a_python_example_runs(block, run_python, tmp_path: Path):
    script = tmp_path / "example.py"
    script.write_text(block.text)
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@dataclass(frozen=True)
class Terminals:
    """The README's controller, worker and page, each in a terminal of its own."""

    page: str
    """The address that the page says."""
    here: dict[str, str]
    """What a reader replaces, and those ports that are taken on this machine."""

    def placed(self, text: str) -> str:
        for place, here in self.here.items():
            text = text.replace(place, here)
        return text


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


@pytest.fixture(scope="module")
def terminals() -> Iterator[Terminals]:
    """With the embedded model in place of the README's."""
    *services, _ = commands_under("Controller, workers and page")
    here = {port: str(free_port()) for port in ("10000", "40000") if is_taken(int(port))}
    here |= {"/path/to/LLaVA-13B-v0": str(find("tiny")), "/path/to/first.jpg": "playground/images/sneaker.png"}
    placed = Terminals("", here).placed
    controller, worker, page = map(placed, services)
    if is_taken(7860):
        page += f" --port {free_port()}"
    with ExitStack() as stack:
        started = [stack.enter_context(Service(*shlex.split(command)[1:])) for command in (controller, page)]
        started[0].wait_for("Uvicorn running on", timeout_s=240)
        serving = stack.enter_context(Service(*shlex.split(worker)[1:]))
        address = started[1].wait_for(r"Uvicorn running on (http://\S+)", timeout_s=240)[1]
        serving.wait_for("Uvicorn running on", timeout_s=240)
        yield Terminals(address, here)


# Both run among the browser's tests, so that the three are started once.


@pytest.mark.browser
@pytest.mark.embedded
def test_the_page_of_the_readmes_third_terminal_answers_in_a_browser(browser, terminals):
    with OpenedPage(browser, terminals.page) as opened:
        assert "LLaVA" in opened.page.title()
        opened.ask("What is in the picture?", [REPOSITORY / "playground" / "images" / "sneaker.png"])
        opened.wait_for_answer()
        opened.seen("sneaker")
        assert opened.faults == []


@pytest.mark.browser
@pytest.mark.embedded
def test_every_other_client_of_the_readme_gets_an_answer(terminals, shell, places, tmp_path: Path):
    *_, message = map(terminals.placed, commands_under("Controller, workers and page"))
    done = shell(message)
    assert done.returncode == 0, done.stderr
    assert "sneaker" in done.stdout
    [curl] = map(terminals.placed, commands_under("OpenAI-compatible API"))
    assert json.loads(shell(curl).stdout)["data"][0]["id"] == "tiny"
    [example] = [block for block in blocks_in("python") if "localhost" in block.text]
    script = tmp_path / "client.py"
    script.write_text(terminals.placed(example.text))
    done = shell(f"python {script}")
    assert done.returncode == 0, done.stderr
    assert "sneaker" in done.stdout
    done = shell(terminals.placed(answering_commands()["from-a-server"]))
    assert done.returncode == 0, done.stderr
    [served, *_] = records_of(Path(places["/path/to/answers"]) / "from-a-server.jsonl")
    assert "sneaker" in served["text"]


# Evaluation


def answering_commands() -> dict[str, str]:
    """By the name of the answers file."""
    return {
        Path(re.findall(r"--answers-file (\S+)", command)[0]).stem: command for command in commands_under("Answering")
    }


def test_questions_are_answered_by_one_process_as_by_two(places, shell):
    commands = answering_commands()
    assert list(commands) == ["LLaVA-13B-v0", "two-processes", "from-a-server"]
    written = []
    for name in ("LLaVA-13B-v0", "two-processes"):
        limited = f"{commands[name]} --max-new-tokens 8 --dtype float32"
        done = shell(limited.replace("/path/to/LLaVA-13B-v0", str(find("tiny"))))
        assert done.returncode == 0, done.stderr
        written.append((Path(places["/path/to/answers"]) / f"{name}.jsonl").read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 6


def test_scienceqa_is_converted_answered_and_marked_as_printed(shell, checkout: Path):
    commands = commands_under("ScienceQA")
    assert [re.findall(r"\w*sqa\w*|\w*science\w*", command)[0] for command in commands] == [
        "convert_sqa_to_llava",
        "sqa_eval_batch",
        "sqa_eval_gather",
        "model_vqa_science",
        "eval_science_qa",
    ]
    outputs = []
    for command in commands:
        limit = {
            "batch": " -- --answer-prompter --conv-mode simple --max-new-tokens 16",
            "model": " --max-new-tokens 16",
        }
        ending = next(
            (words for name, words in limit.items() if f"{name}.sh" in command or f"{name}_vqa" in command), ""
        )
        done = shell(command + ending, cwd=checkout)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    assert "Total: 4, Correct: " in outputs[2]
    assert "Total: 4, Correct: " in outputs[4]
    for file in ("test_llava-13b_result.json", "vqa/results/ScienceQA/test_llava-13b_result.json"):
        assert json.loads((checkout / file).read_text())["count"] == 4


def test_the_originals_spelling_runs_in_its_folder_with_data_of_another(places, shell, checkout: Path):
    """`python model_vqa.py` in llava/eval, with a path that begins at the repository."""
    folder = REPOSITORY / "llava" / "eval"
    words = "--image-folder playground/images --temperature 0 --max-new-tokens 8"
    done = shell(
        f"python model_vqa.py --question-file /path/to/questions.jsonl {words} --answers-file {checkout}/a.jsonl",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "using" in done.stderr
    assert len(records_of(checkout / "a.jsonl")) == 6


@pytest.fixture
def judge(monkeypatch):
    """What the openai client reaches without a --base-url."""
    judge = FakeJudge()
    with judging(judge) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.delenv("LLAVA_JUDGE_MODEL", raising=False)
        yield judge


def test_a_gpt_review_runs_as_printed_from_its_cost_to_its_figures(places, shell, judge):
    preview, get_data, review, summary = commands_under("GPT-assisted evaluation")
    done = shell(preview)
    assert done.returncode == 0, done.stderr
    assert "calls:   30 to make" in done.stdout
    assert judge.bodies == []
    done = shell(f"{get_data} --list")  # without a network
    assert done.stdout.count("sha256") == 7
    done = shell(review)
    assert done.returncode == 0, done.stderr
    assert "90 reviews by gpt-5.5-2026-04-23" in done.stdout
    done = shell(summary)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^model +conv +detail +complex +all\nLLaVA-13B-v0 +[\d.]+ \(", done.stdout, flags=re.MULTILINE)


def test_a_gpt_review_runs_as_the_original_printed_it(places, shell, judge, tmp_path: Path, monkeypatch):
    """In llava/eval, with paths of two folders; who judges is said once, in the environment."""
    monkeypatch.setenv("LLAVA_JUDGE_MODEL", "judge")
    folder = REPOSITORY / "llava" / "eval"
    done = shell(
        'OPENAI_API_KEY="sk-***********************************" python eval_gpt_review_visual.py '
        "--question playground/data/example_review/questions.jsonl "
        "--context playground/data/example_review/captions_boxes.jsonl "
        "--answer-list playground/data/example_review/reference_answers.jsonl "
        "playground/data/example_review/answers_tiny.jsonl "
        f"--rule table/rule.json --output {tmp_path}/review.json",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_lines(tmp_path / "review.json")) == 30
    done = shell(f"python {folder}/summarize_gpt_review.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reading review.json" in done.stderr
    assert "review  " in done.stdout


@pytest.mark.parametrize("block", blocks_in("json"), ids=lambda block: f"line {block.line}")
def test_a_data_example_is_what_training_reads(block, tmp_path: Path):
    from llava.train.data.records import load_records

    file = tmp_path / "records.json"
    file.write_text(block.text)
    assert len(load_records(str(file))) == len(json.loads(block.text))


SHOWN_ERRORS = {
    command: output
    for block in blocks_in("text")
    if "When something goes wrong" in block.sections
    for command, output in block.output_of().items()
}


@pytest.mark.parametrize(("command", "shown"), SHOWN_ERRORS.items(), ids=range(len(SHOWN_ERRORS)))
def test_an_error_that_is_shown_is_the_error_that_comes(command, shown, shell):
    done = shell(command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip().splitlines()[-1] == shown.replace("/home/me/LLaVA", str(REPOSITORY))
