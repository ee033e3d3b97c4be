"""Benchmarks: preparing their data, answering, gathering answers, marking them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import Tools, run_group

TOOLS: Tools = {
    "Answering": {
        "vqa": ("llava.eval.model_vqa", "answer questions about images"),
        "vqa-loader": ("llava.eval.model_vqa_loader", "the same, briefly (POPE, MME, VQAv2, GQA, TextVQA)"),
        "vqa-science": ("llava.eval.model_vqa_science", "answer ScienceQA"),
        "vqa-mmbench": ("llava.eval.model_vqa_mmbench", "answer MMBench"),
        "qa": ("llava.eval.model_qa", "answer questions without images"),
        "merge-answers": ("llava.eval.merge_answers", "the answers of several processes as one file"),
    },
    "ScienceQA": {
        "convert-science-qa": ("llava.eval.convert_science_qa", "ScienceQA as conversations"),
        "science-qa": ("llava.eval.eval_science_qa", "ScienceQA: accuracy in the nine published columns"),
        "science-qa-gpt4": ("llava.eval.eval_science_qa_gpt4", "ScienceQA: GPT-4, complemented by a model"),
        "science-qa-gpt4-requery": ("llava.eval.eval_science_qa_gpt4_requery", "ScienceQA: GPT-4 as judge of both"),
    },
    "GPT review": {
        "get-data": ("llava.eval.get_data", "Download the original's questions, answers and contexts."),
        "gpt-answers": ("llava.eval.qa_baseline_gpt35", "a hosted model's answers to text-only questions"),
        "gpt-review": ("llava.eval.eval_gpt_review", "a judge compares two answers: text-only questions"),
        "gpt-review-bench": ("llava.eval.eval_gpt_review_bench", "a judge compares two answers: LLaVA-Bench"),
        "gpt-review-visual": ("llava.eval.eval_gpt_review_visual", "a judge compares two answers about an image"),
        "gpt-review-summary": ("llava.eval.summarize_gpt_review", "figures of reviews, with intervals"),
        "webpage-data": (
            "llava.eval.generate_webpage_data_from_table",
            "questions, answers, reviews as one JSON file",
        ),
    },
    "Other benchmarks": {
        "gqa": ("llava.eval.eval_gqa", "GQA: accuracy by type of question"),
        "mm-vet": ("llava.eval.eval_mm_vet", "MM-Vet: the judge's grades by capability"),
        "mmbench": ("llava.eval.eval_mmbench", "MMBench: plain accuracy and circular evaluation"),
        "mme": ("llava.eval.eval_mme", "MME: perception and cognition"),
        "pope": ("llava.eval.eval_pope", "POPE: objects that are not there"),
        "seed-bench": ("llava.eval.convert_seed_bench", "SEED-Bench: accuracy, and its submission"),
        "textvqa": ("llava.eval.eval_textvqa", "TextVQA: soft accuracy"),
        "vqa-accuracy": ("llava.eval.eval_vqa", "VQA and VizWiz: soft accuracy by type of answer"),
        "submit-gqa": ("llava.eval.convert_gqa", "GQA: predictions for its own evaluation"),
        "submit-mm-vet": ("llava.eval.convert_mm_vet", "MM-Vet: answers for its judge"),
        "submit-mmbench": ("llava.eval.convert_mmbench", "MMBench: a workbook to submit"),
        "submit-vizwiz": ("llava.eval.convert_vizwiz", "VizWiz: a submission"),
        "submit-vqav2": ("llava.eval.convert_vqav2", "VQAv2: a submission"),
    },
    "Reports": {
        "report": ("llava.eval.report.command", "runs side by side in one page, with every answer"),
    },
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs the tool that the first word names; returns its exit code."""
    return run_group(TOOLS, description=__doc__, argv=argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
