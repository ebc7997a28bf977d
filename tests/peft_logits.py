"""Compares adapters with PEFT, both ways. Goal: every logit within 1e-4.

Not in the default run: it needs torch, transformers and peft. From the root of the repository:

    python3 -m venv peer && peer/bin/pip install torch transformers peft
    SUANLI_PYTHON=$PWD/peer/bin/python cargo test -p suanli-store --test peft -- --ignored

The test runs this file on a folder with `model` and `adapter` (ours) and `expected.json` (our logits). It
opens both with PEFT and compares, merges them and compares again; then it draws adapters of its own, saves
them to `theirs`, and writes the logits that they give to `theirs.json`, for us to read.
"""

import json
import pathlib
import sys

import peft
import torch
import transformers

TOLERANCE = 1e-4


def worst(model, prompt, expected) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0].flatten()
    return (logits - torch.tensor(expected)).abs().max().item()


def main():
    folder = pathlib.Path(sys.argv[1])
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    prompt = expected["prompt"]

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)

    plain = worst(base(), prompt, expected["logits"])
    assert plain > 0.01, "the adapters change something"
    model = peft.PeftModel.from_pretrained(base(), folder / "adapter")
    apart = worst(model, prompt, expected["logits"])
    merged = worst(model.merge_and_unload(), prompt, expected["logits"])
    print(f"ours in PEFT: largest difference {apart:.2e}, merged {merged:.2e}, without adapters {plain:.2e}")
    assert max(apart, merged) <= TOLERANCE

    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=5, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base(), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    theirs.eval()
    theirs.save_pretrained(folder / "theirs")
    with torch.no_grad():
        logits = theirs(torch.tensor([prompt])).logits[0].flatten().tolist()
    (folder / "theirs.json").write_text(json.dumps(logits), encoding="utf-8")


if __name__ == "__main__":
    main()
