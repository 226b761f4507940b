"""How rows are spelled elsewhere: by name, the row, its kind, and the canonical row that it becomes."""

from __future__ import annotations

import json
from typing import Any

USER = {"role": "user", "content": "Where is Mira?"}
GOOD = {"role": "assistant", "content": "In the tower."}
BAD = {"role": "assistant", "content": "Who knows."}
PREFERENCE = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
KTO = {"prompt": [USER], "completion": [GOOD], "label": True}
LOOK = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLED = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Graz"}'}}],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    {"role": "assistant", "content": "Rain."},
]

WINNER = {"p": "prompt", "a": "first", "b": "second", "w": "winner"}
SPELLINGS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("text", {"text": "A story."}, "text", {"text": "A story."}),
    ("text under another name", {"id": 3, "content": "A story."}, "text", {"text": "A story."}),
    (
        "alpaca",
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        "instruction",
        {"prompt": "Add.\n\n1 + 1", "completion": "2"},
    ),
    (
        "alpaca without input",
        {"instruction": "Hi", "input": "", "output": "Ho"},
        "instruction",
        {"prompt": "Hi", "completion": "Ho"},
    ),
    (
        "Dolly",
        {"instruction": "Who ran?", "context": "Mira ran.", "response": "Mira", "category": "qa"},
        "instruction",
        {"prompt": "Who ran?\n\nMira ran.", "completion": "Mira"},
    ),
    ("prompt and completion", {"prompt": "a", "completion": "b"}, "instruction", {"prompt": "a", "completion": "b"}),
    ("prompt and response", {"Prompt": "a", "Response": "b"}, "instruction", {"prompt": "a", "completion": "b"}),
    ("openai messages", {"messages": [USER, GOOD]}, "chat", {"messages": [USER, GOOD]}),
    (
        "content parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Where is Mira?"}]}, GOOD]},
        "chat",
        {"messages": [USER, GOOD]},
    ),
    (
        "sharegpt with a system column",
        {
            "conversations": [{"from": "human", "value": "Where is Mira?"}, {"from": "gpt", "value": "In the tower."}],
            "system": "Be brief.",
        },
        "chat",
        {"messages": [{"role": "system", "content": "Be brief."}, USER, GOOD]},
    ),
    ("messages as JSON in a cell", {"messages": json.dumps([USER, GOOD])}, "chat", {"messages": [USER, GOOD]}),
    (
        "preference strings",
        {"prompt": "Where is Mira?", "chosen": "In the tower.", "rejected": "Who knows."},
        "preference",
        PREFERENCE,
    ),
    ("preference messages", PREFERENCE, "preference", PREFERENCE),
    ("whole conversations", {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, "preference", PREFERENCE),
    (
        "a prompt and whole conversations",
        {"prompt": "Where is Mira?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        "preference",
        PREFERENCE,
    ),
    (
        "hh-rlhf transcripts",
        {
            "chosen": "\n\nHuman: Where is Mira?\n\nAssistant: In the tower.",
            "rejected": "\n\nHuman: Where is Mira?\n\nAssistant: Who knows.",
        },
        "preference",
        PREFERENCE,
    ),
    (
        "LLaMA-Factory",
        {
            "conversations": [{"from": "human", "value": "Where is Mira?"}],
            "chosen": {"from": "gpt", "value": "In the tower."},
            "rejected": {"from": "gpt", "value": "Who knows."},
        },
        "preference",
        PREFERENCE,
    ),
    (
        "OpenAI's preference pairs",
        {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        "preference",
        PREFERENCE,
    ),
    (
        "answers j and k",
        {"question": "Where is Mira?", "response_j": "In the tower.", "response_k": "Who knows."},
        "preference",
        PREFERENCE,
    ),
    (
        "two answers and a winner",
        {"prompt": "Where is Mira?", "response_a": "Who knows.", "response_b": "In the tower.", "winner": "model_b"},
        "preference",
        PREFERENCE,
    ),
    (
        "two answers and three judges",
        {
            "instruction": "Where is Mira?",
            "response1": "In the tower.",
            "response2": "Who knows.",
            "annotator1": 1,
            "annotator2": 2,
            "annotator3": 1,
        },
        "preference",
        PREFERENCE,
    ),
    (
        "TRL's prompt and completion in turns",
        {"prompt": [USER], "completion": [GOOD]},
        "chat",
        {"messages": [USER, GOOD]},
    ),
    ("TRL's labelled answers", {"prompt": [USER], "completion": [GOOD], "label": True}, "kto", KTO),
    ("labels as words", {"prompt": "Where is Mira?", "completion": "In the tower.", "label": "true"}, "kto", KTO),
    ("labelled texts", {"prompt": "Where is Mira?", "completion": "In the tower.", "label": 1}, "kto", KTO),
    (
        "LLaMA-Factory's labelled conversations",
        {"messages": [USER, BAD], "kto_tag": False},
        "kto",
        {**KTO, "completion": [BAD], "label": False},
    ),
    (
        "thumbs",
        {"question": "Where is Mira?", "answer": "Who knows.", "thumbs": "down"},
        "kto",
        {**KTO, "completion": [BAD], "label": False},
    ),
    (
        "scores of one and minus one",
        {"instruction": "Where is", "input": "Mira?", "output": "In the tower.", "score": "-1"},
        "kto",
        {"prompt": [{"role": "user", "content": "Where is\n\nMira?"}], "completion": [GOOD], "label": False},
    ),
    (
        "OpenAI's tools",
        {
            "messages": [
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Graz"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "rain"},
                {"role": "assistant", "content": "Rain."},
            ],
            "tools": [LOOK],
        },
        "chat",
        {"messages": CALLED, "tools": json.dumps([LOOK])},
    ),
    (
        "ShareGPT's function calls",
        {
            "conversations": [
                {"from": "human", "value": "Weather?"},
                {"from": "function_call", "value": '{"name": "look", "arguments": {"city": "Graz"}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "Rain."},
            ],
            "tools": json.dumps([LOOK["function"]]),
        },
        "chat",
        {
            "messages": [
                {k: v for k, v in m.items() if k != "tool_call_id"}
                if "tool_calls" not in m
                else {**m, "tool_calls": [{k: v for k, v in m["tool_calls"][0].items() if k != "id"}]}
                for m in CALLED
            ],
            "tools": json.dumps([LOOK]),
        },
    ),
    (
        "earlier rounds",
        {"instruction": "Where is Mira?", "output": "In the tower.", "history": [["Hi", "Ho"]]},
        "chat",
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, USER, GOOD]},
    ),
    (
        "Self-Instruct",
        {"instruction": "Add.", "instances": [{"input": "1 + 1", "output": "2"}]},
        "instruction",
        {"prompt": "Add.\n\n1 + 1", "completion": "2"},
    ),
    (
        "instruction with two outputs",
        {"instruction": "Where is", "input": "Mira?", "chosen": "In the tower.", "rejected": "Who knows."},
        "preference",
        {**PREFERENCE, "prompt": [{"role": "user", "content": "Where is\n\nMira?"}]},
    ),
    (
        "choices and index",
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1},
        "benchmark",
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1},
    ),
    (
        "ARC",
        {"question": "2 + 2?", "choices": {"text": ["three", "four"], "label": ["A", "B"]}, "answerKey": "B"},
        "benchmark",
        {"question": "2 + 2?", "choices": ["three", "four"], "answer": 1},
    ),
    (
        "ARC whose choices are counted from one",
        {"question": "2 + 2?", "choices": {"text": ["four", "three"], "label": ["1", "2"]}, "answerKey": "1"},
        "benchmark",
        {"question": "2 + 2?", "choices": ["four", "three"], "answer": 0},
    ),
    (
        "CommonsenseQA",
        {
            "question": "2 + 2?",
            "choices": [{"label": "B", "text": "four"}, {"label": "A", "text": "three"}],
            "answerKey": "B",
        },
        "benchmark",
        {"question": "2 + 2?", "choices": ["four", "three"], "answer": 0},
    ),
    (
        "OpenBookQA",
        {"question_stem": "2 + 2?", "choices": {"text": ["three", "four"], "label": ["A", "B"]}, "answerKey": "B"},
        "benchmark",
        {"question": "2 + 2?", "choices": ["three", "four"], "answer": 1},
    ),
    (
        "Social IQa",
        {
            "context": "Ann ran.",
            "question": "Why?",
            "answerA": "late",
            "answerB": "bored",
            "answerC": "ill",
            "label": "3",
        },
        "benchmark",
        {"question": "Ann ran.\nWhy?", "choices": ["late", "bored", "ill"], "answer": 2},
    ),
    (
        "SciQ",
        {"question": "Up?", "distractor1": "down", "distractor2": "left", "correct_answer": "sky"},
        "benchmark",
        {"question": "Up?", "choices": ["sky", "down", "left"], "answer": 0},
    ),
    (
        "SQuAD",
        {"context": "Mira ran.", "question": "Who?", "answers": {"text": ["Mira"], "answer_start": [0]}},
        "benchmark",
        {"question": "Mira ran.\nWho?", "answers": ["Mira"]},
    ),
    (
        "TriviaQA",
        {"question": "Who?", "answer": {"value": "Mira", "aliases": ["Mira", "She"], "normalized_value": "mira"}},
        "benchmark",
        {"question": "Who?", "answers": ["Mira", "She"]},
    ),
    (
        "BoolQ",
        {"question": "ran she", "answer": True, "passage": "Mira ran."},
        "benchmark",
        {"question": "Mira ran.\nran she", "answers": ["True"]},
    ),
    (
        "MBPP",
        {"task_id": 1, "text": "Return 1.", "code": "def f(): return 1", "test_list": ["assert f()"]},
        "benchmark",
        {"question": "Return 1.", "answers": ["def f(): return 1"]},
    ),
    (
        "HellaSwag",
        {"ctx": "She opens", "endings": ["a door", "a cloud"], "label": "0"},
        "benchmark",
        {"question": "She opens", "choices": ["a door", "a cloud"], "answer": 0},
    ),
    (
        "numbered choice columns",
        {"question": "2 + 2?", "choice0": "three", "choice1": "four", "answer": "1"},
        "benchmark",
        {"question": "2 + 2?", "choices": ["three", "four"], "answer": 1},
    ),
    (
        "lettered choice columns",
        {"question": "2 + 2?", "A": "three", "B": "four", "answer": "B"},
        "benchmark",
        {"question": "2 + 2?", "choices": ["three", "four"], "answer": 1},
    ),
    (
        "answers counted from one",
        {"sentence": "_ is big", "option1": "it", "option2": "she", "answer": "2"},
        "benchmark",
        {"question": "_ is big", "choices": ["it", "she"], "answer": 1},
    ),
    (
        "accepted answers",
        {"question": "Who?", "answers": ["Mira", "She"]},
        "benchmark",
        {"question": "Who?", "answers": ["Mira", "She"]},
    ),
    (
        "GSM8K",
        {"question": "How many?", "answer": "She has 2 and 3.\n2 + 3 = 5\n#### 5"},
        "benchmark",
        {"question": "How many?", "answers": ["5"]},
    ),
    (
        "BIG-bench",
        {"input": "not True is", "target": "False"},
        "benchmark",
        {"question": "not True is", "answers": ["False"]},
    ),
    (
        "HumanEval",
        {"prompt": "def f():", "canonical_solution": " return 1", "entry_point": "f", "test": "assert f()"},
        "benchmark",
        {"question": "def f():", "answers": [" return 1"]},
    ),
    ("prompts", {"id": 1, "prompt": "Tell me."}, "prompts", {"prompt": "Tell me."}),
    ("MT-bench turns", {"question_id": 1, "turns": ["Tell me.", "Again."]}, "prompts", {"prompt": "Tell me."}),
]
