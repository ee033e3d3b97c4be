"""Evaluates models: prepares data, answers questions, scores answers and reports on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import Tools, run_group

TOOLS: Tools = {
    "Answering": {
        "vqa": ("llava.eval.model_vqa", "Answer questions about images."),
        "vqa-loader": ("llava.eval.model_vqa_loader", "Answer questions briefly for POPE, MME, VQAv2, GQA or TextVQA."),
        "vqa-science": ("llava.eval.model_vqa_science", "Answer ScienceQA."),
        "vqa-mmbench": ("llava.eval.model_vqa_mmbench", "Answer MMBench."),
        "qa": ("llava.eval.model_qa", "Answer questions without images."),
        "merge-answers": ("llava.eval.merge_answers", "Merge the answers of several processes into one file."),
    },
    "ScienceQA": {
        "convert-science-qa": ("llava.eval.convert_science_qa", "Convert ScienceQA to conversations."),
        "science-qa": ("llava.eval.eval_science_qa", "Score ScienceQA in the nine published columns."),
        "science-qa-gpt4": ("llava.eval.eval_science_qa_gpt4", "Score GPT-4 on ScienceQA, complemented by a model."),
        "science-qa-gpt4-requery": (
            "llava.eval.eval_science_qa_gpt4_requery",
            "Score GPT-4 as the judge of its own and a model's answers.",
        ),
    },
    "GPT review": {
        "get-data": ("llava.eval.get_data", "Download the original's questions, answers and contexts."),
        "gpt-answers": ("llava.eval.qa_baseline_gpt35", "Ask a hosted model text-only questions."),
        "gpt-review": ("llava.eval.eval_gpt_review", "Review two answers to text-only questions."),
        "gpt-review-bench": ("llava.eval.eval_gpt_review_bench", "Review two answers to the questions of LLaVA-Bench."),
        "gpt-review-visual": ("llava.eval.eval_gpt_review_visual", "Review two answers to questions about images."),
        "gpt-review-summary": ("llava.eval.summarize_gpt_review", "Summarize reviews, with intervals."),
        "webpage-data": ("llava.eval.generate_webpage_data_from_table", "Write the data of the original's web page."),
    },
    "Benchmarks": {
        "gqa": ("llava.eval.eval_gqa", "Score GQA by type of question."),
        "mm-vet": ("llava.eval.eval_mm_vet", "Score MM-Vet by capability, from a judge's grades."),
        "mmbench": ("llava.eval.eval_mmbench", "Score MMBench by plain accuracy and circular evaluation."),
        "mme": ("llava.eval.eval_mme", "Score MME in perception and cognition."),
        "pope": ("llava.eval.eval_pope", "Score POPE, which asks about objects that may not be in the image."),
        "seed-bench": ("llava.eval.eval_seed_bench", "Score SEED-Bench, and write its submission."),
        "textvqa": ("llava.eval.eval_textvqa", "Score TextVQA by soft accuracy."),
        "vqa-accuracy": ("llava.eval.eval_vqa", "Score VQA and VizWiz by soft accuracy and type of answer."),
    },
    "Conversion": {
        "submit-gqa": ("llava.eval.convert_gqa", "Write predictions for the evaluation script of GQA."),
        "submit-mm-vet": ("llava.eval.convert_mm_vet", "Write answers for the judge of MM-Vet."),
        "submit-mmbench": ("llava.eval.convert_mmbench", "Write a workbook to submit to MMBench."),
        "submit-vizwiz": ("llava.eval.convert_vizwiz", "Write a submission to VizWiz."),
        "submit-vqav2": ("llava.eval.convert_vqav2", "Write a submission to VQAv2."),
    },
    "Reports": {
        "report": ("llava.eval.report.command", "Show runs side by side on one page, with every answer."),
    },
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs the tool that the first word names; returns its exit code."""
    return run_group(TOOLS, description=__doc__, argv=argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())
