"""Opens exports of ours in `transformers` and compares: logits, token ids, text.

Not in the default run: it needs torch and transformers. From the root of the repository:

    python3 -m venv peer && peer/bin/pip install torch transformers
    SUANLI_PYTHON=$PWD/peer/bin/python cargo test -p suanli-store --test transformers -- --ignored

That test writes the exports and `expected.json` (our own logits and ids), then runs this file
with the folder as argument. Goal: every logit within 1e-4.
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

TOLERANCE = 1e-4


def check(folder: pathlib.Path) -> float:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    checkpoint = folder / "model"
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{folder.name}: {problem}: {info[problem]}"
    assert model.config.rope_parameters["rope_theta"] == expected["rope_theta"]
    assert model.config.tie_word_embeddings == expected["tied"]

    for tokenizer in (
        AutoTokenizer.from_pretrained(checkpoint),
        PreTrainedTokenizerFast.from_pretrained(checkpoint),
    ):
        assert len(tokenizer) == expected["vocab"], f"{len(tokenizer)} entries"
        ids = tokenizer(expected["text"])["input_ids"]
        assert ids == expected["ids"], f"{folder.name}: {type(tokenizer).__name__}: ids differ"
        assert tokenizer.decode(ids) == expected["text"], f"{folder.name}: text differs"

    ids = torch.tensor([expected["prompt"]])
    with torch.no_grad():
        logits = model(ids).logits[0].flatten()
    ours = torch.tensor(expected["logits"])
    assert logits.shape == ours.shape, f"{logits.shape} against {ours.shape}"
    difference = (logits - ours).abs().max().item()
    spread = ours.std().item()
    print(f"{folder.name}: largest difference {difference:.2e} at a spread of {spread:.2f}")
    assert spread > 0.1, "logits that hardly differ prove nothing"
    made = model.generate(ids[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert made.shape == (1, 7)
    return difference


def main() -> None:
    folders = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir())
    assert folders, "no exports found"
    worst = max(check(folder) for folder in folders)
    print(f"transformers {transformers.__version__}: {len(folders)} exports, worst {worst:.2e}")
    if worst > TOLERANCE:
        sys.exit(f"expected at most {TOLERANCE}, found {worst}")


if __name__ == "__main__":
    main()
