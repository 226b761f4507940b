"""Rows in the shape of published benchmarks, made for tests: task name -> (the task's part, rows)."""

from __future__ import annotations

from typing import Any

ARC = {"question": "Which is a metal?", "choices": {"text": ["iron", "wood"], "label": ["A", "B"]}, "answerKey": "A"}

TASK_ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        ARC,
        {
            **ARC,
            "question": "Which one burns?",
            "choices": {"text": ["iron", "wood", "sand"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
    ],
    "hellaswag": [
        {
            "activity_label": "Baking bread",
            "ctx_a": "[header] How to bake [title] Mix it.",
            "ctx_b": "then the dough",
            "endings": ["rises [substeps] slowly.", "flies  away. [title] Done"],
            "label": "0",
        }
    ],
    "piqa": [{"goal": "Dry a cup", "sol1": "Use a towel.", "sol2": "Use a stone.", "label": 0}],
    "winogrande": [
        {
            "sentence": "The jug held more than the cup because the _ was large.",
            "option1": "jug",
            "option2": "cup",
            "answer": "1",
        },
        {
            "sentence": "The jug held more than the cup because the _ was small.",
            "option1": "jug",
            "option2": "cup",
            "answer": "2",
        },
    ],
    "openbookqa": [
        {
            "question_stem": "Ice that is warmed",
            "choices": {"text": ["melts", "sings"], "label": ["A", "B"]},
            "answerKey": " A",
        }
    ],
    "boolq": [{"passage": "Ann has a red hat.", "question": "is the hat of ann red", "label": 1}],
    "truthfulqa_mc1": [
        {
            "question": "Do stones eat?",
            "mc1_targets": {"choices": ["No", "Yes, grass"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["No", "They do not", "Yes"], "labels": [1, 1, 0]},
        }
    ],
    "lambada": [{"text": "ann took the red hat and put on the hat"}],
    "blimp": [{"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "UID": "agreement"}],
    "mmlu": [
        {"question": " What is 1 + 1? ", "subject": "abstract_algebra", "choices": ["1", "2", "3", "4"], "answer": 1},
        {"question": "What is 2 + 1?", "subject": "abstract_algebra", "choices": ["1", "2", "3", "4"], "answer": 2},
    ],
    "gsm8k_cot": [{"question": "Ann has 2 hats and buys 1. How many?", "answer": "2 + 1 = <<2+1=3>>3\n#### 3"}],
    "bbh": [{"input": "not True is", "target": "False", "subtask": "boolean_expressions"}],
    "humaneval": [
        {
            "task_id": "X/0",
            "prompt": "def one():\n",
            "entry_point": "one",
            "canonical_solution": "    return 1\n",
            "test": "def check(f):\n    assert f() == 1\n",
        }
    ],
    "ifeval": [
        {"key": 1, "prompt": "Write no comma.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    ],
    "wikitext": [{"page": ' = Ann = \n Ann \'s hat ( red ) was 1 @,@ 000 N old , " they said " . \n '}],
    "bbq": [
        {
            "example_id": 0,
            "question_index": "1",
            "question_polarity": "neg",
            "context_condition": condition,
            "category": "Age",
            "answer_info": {"ans0": ["Ann", "old"], "ans1": ["unknown", "unknown"], "ans2": ["Ben", "young"]},
            "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"]},
            "context": "Ann and Ben met.",
            "question": "Who was late?",
            "ans0": "Ann",
            "ans1": "Not known",
            "ans2": "Ben",
            "label": label,
        }
        for condition, label in (("ambig", 1), ("disambig", 2))
    ],
    "winogender": [
        {
            "sentence": "The baker told the guest that she was late.",
            "pronoun": "she",
            "occupation": "baker",
            "participant": "guest",
            "label": 0,
            "gender": "female",
        }
    ],
    "crows_pairs": [{"sent_more": "Ann is late.", "sent_less": "Ben is late.", "bias_type": "gender"}],
}
