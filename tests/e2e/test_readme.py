"""The README's promises, kept: its commands are cut out of README.md and run.

Only what a reader has to replace is replaced (`places`). What pip would install must already be here, in the ranges
that the package declares, because tests reach no registry: `pip install` runs as `pip install --dry-run --no-index`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from llava.pocket import find
from llava.serve.server import free_port
from tests.support.science_qa import make_science_qa
from tests.support.serving import Service
from tests.support.vqa import PICTURES, write_questions
from tests.support.vqa import records as records_of

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
README = REPOSITORY / "README.md"

HEADING = re.compile(r"(#+) (.*)")
FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a Markdown file."""

    sections: tuple[str, ...]
    """The headings that it stands under, outermost first."""

    language: str
    line: int
    text: str

    def commands(self) -> list[str]:
        """The block's shell commands, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]

    def output_of(self) -> dict[str, str]:
        """In a block that shows a session: what each `$ command` printed."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return {command: output.strip() for command, _, output in (part.partition("\n") for part in parts)}


def blocks(file: Path) -> list[Block]:
    found: list[Block] = []
    sections: list[str] = []
    language, start, text = "", 0, []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if start and not fence:
            text.append(line)
        elif start:
            found.append(Block(tuple(sections), language, start, "\n".join(text)))
            start, text = 0, []
        elif fence:
            language, start = fence.group(1), number
        elif heading := HEADING.match(line):
            sections[len(heading.group(1)) - 1 :] = [heading.group(2)]
    return found


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


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """What a reader replaces, by what the tests have: tiny checkpoints with their tower inside, small pictures."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("llava-v0-tiny", "llava-v1.5-tiny"):
        shutil.copytree(DATA / name, folder / name)
        shutil.copytree(DATA / "clip-tiny", folder / name / "clip-tiny")
    records = [
        {
            "id": name,
            "image": f"{name}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": f"It is {name}."},
            ],
        }
        for name in ("land", "port", "square", "wide")
    ]
    (folder / "records.json").write_text(json.dumps(records))
    science_qa = make_science_qa(folder / "ScienceQA", 4)
    splits = {name: ["1", "2", "3", "4"] for name in ("train", "val", "minival", "test", "minitest")}
    (science_qa / "pid_splits.json").write_text(json.dumps(splits))
    return {
        "/path/to/ScienceQA/data/scienceqa": str(science_qa),
        "/path/to/LLaVA-13b-v0-science_qa": str(find("tiny")),
        "/path/to/questions.jsonl": str(write_questions(folder)),
        "/path/to/coco2014_val": str(PICTURES),
        "/path/to/answers": str(folder / "answers"),
        "/path/to/LLaVA.git": str(REPOSITORY),
        "/path/to/LLaVA-13B-v0": str(folder / "llava-v0-tiny"),
        "/path/to/llava-v1.5-7b": str(folder / "llava-v1.5-tiny"),
        "/path/to/clip-vit-large-patch14": str(DATA / "clip-tiny"),
        "/path/to/llama-vicuna-13b": str(DATA / "llama-vicuna-tiny"),
        "/path/to/llama-13b": str(DATA / "llama-vicuna-tiny"),
        "/path/to/llama-7b": str(DATA / "llama-vicuna-tiny"),
        "/path/to/LLaVA-13B-delta-v0": str(DATA / "llava-v0-tiny-delta"),
        "/path/to/LLaVA-7B-delta-v0": str(DATA / "llava-v0-tiny-delta"),
        "/output/path/to": str(folder / "made"),
        "openai/clip-vit-large-patch14": str(DATA / "clip-tiny"),
        "https://llava-vl.github.io/static/images/view.jpg": str(DATA / "images" / "land.png"),
        "/path/to/first.jpg": str(DATA / "images" / "land.png"),
        "/path/to/second.jpg": str(DATA / "images" / "port.png"),
        "/path/to/cc3m_595k.json": str(folder / "records.json"),
        "/path/to/llava_instruct_150k.json": str(folder / "records.json"),
        "/path/to/cc3m_595k": str(DATA / "images"),
        "/path/to/coco/train2017": str(DATA / "images"),
        "--master_port=25001": f"--master_port={free_port()}",  # other tests may run beside this one
    }


@pytest.fixture(scope="module")
def shell(places):
    """Runs a command of the README in bash, as a reader would in an activated environment."""

    def run(command: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        for place in sorted(places, key=len, reverse=True):
            command = command.replace(place, places[place])
        assert "path/to" not in command, "a place that this test has nothing for"
        assert "https://" not in command, "an address that this test has nothing for"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=cwd,
            env={**os.environ, "PATH": path},
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
    return command.startswith("pip install")


def declared_extras() -> dict[str, set[str]]:
    """The names of the packages that each extra of this package brings."""
    extras: dict[str, set[str]] = {name: set() for name in metadata.metadata("llava").get_all("Provides-Extra") or []}
    for line in metadata.requires("llava") or []:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line):
            extras[match.group(2)].add(match.group(1))
    return extras


def optional_parts(command: str) -> set[str]:
    """The packages of a `pip install` that only an extra brings; empty for a required part."""
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
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
    flags = "--dry-run --no-index --no-build-isolation --disable-pip-version-check"
    done = shell(f"python -m pip install {flags} {command.removeprefix('pip install')}")
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


OFFLINE_EXAMPLES = [block for block in blocks_in("python") if "localhost" not in block.text]


@pytest.mark.parametrize("block", OFFLINE_EXAMPLES, ids=lambda block: f"line {block.line}")
def test_a_python_example_runs(block, run_python, tmp_path: Path):
    script = tmp_path / "example.py"
    script.write_text(block.text)
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.embedded
def test_the_serving_commands_run_one_after_the_other_and_every_client_gets_an_answer(places, shell, tmp_path: Path):
    """With the embedded model in place of the README's, and ports that are free."""
    ports = {"10000": str(free_port()), "40000": str(free_port())}
    folder = {"/path/to/LLaVA-13B-v0": str(find("tiny")), "/path/to/first.jpg": "playground/pictures/sneaker.png"}

    def placed(text: str) -> str:
        for place, here in (ports | folder).items():
            text = text.replace(place, here)
        return text

    controller, worker, page, message = map(placed, commands_under("Controller, workers and page"))
    with ExitStack() as stack:
        for command in (controller, worker, f"{page} --port {free_port()}"):
            service = stack.enter_context(Service(*shlex.split(command)[1:]))
            address = service.wait_for(r"Uvicorn running on (http://\S+)", timeout_s=240)[1]
        assert "LLaVA" in httpx.get(address).text
        done = shell(message)
        assert done.returncode == 0, done.stderr
        assert "sneaker" in done.stdout
        [curl] = map(placed, commands_under("OpenAI-compatible API"))
        assert json.loads(shell(curl).stdout)["data"][0]["id"] == "tiny"
        [example] = [block for block in blocks_in("python") if "localhost" in block.text]
        script = tmp_path / "client.py"
        script.write_text(placed(example.text))
        done = shell(f"python {script}")
        assert done.returncode == 0, done.stderr
        assert "sneaker" in done.stdout
        done = shell(placed(answering_commands()["from-a-server"]))
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
    """`python model_vqa.py` with a path that begins at the repository; and a line that lacks its continuation."""
    folder = REPOSITORY / "llava" / "eval"
    words = "--image-folder playground/pictures --temperature 0 --max-new-tokens 8"
    done = shell(
        f"python model_vqa.py --question-file /path/to/questions.jsonl {words} --answers-file {checkout}/a.jsonl",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "using" in done.stderr
    assert len(records_of(checkout / "a.jsonl")) == 6


@pytest.mark.parametrize("block", blocks_in("json"), ids=lambda block: f"line {block.line}")
def test_a_data_example_is_what_training_reads(block, tmp_path: Path):
    from llava.train.records import load_records

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


# Fine-tuning


@pytest.mark.slow
def test_the_two_stages_run_one_after_the_other_as_printed(shell, checkout: Path):
    commands = commands_under("Fine-tuning")
    assert [re.findall(r"train_mem|extract_mm_projector\.py", command)[:1] for command in commands] == [
        ["train_mem"],
        ["extract_mm_projector.py"],
        ["train_mem"],
    ]
    for command in commands:
        done = shell(command, cwd=checkout)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (checkout / "checkpoints" / "mm_projector" / "llava-13b-pretrain.bin").exists()
    assert (checkout / "checkpoints" / "llava-13b" / "config.json").exists()
