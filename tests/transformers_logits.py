"""Compares with `transformers`: logits, token ids, text. Goal: every logit within 1e-4.

Not in the default run: it needs torch and transformers. From the root of the repository:

    python3 -m venv peer && peer/bin/pip install torch transformers
    SUANLI_PYTHON=$PWD/peer/bin/python cargo test -p suanli-store --test transformers -- --ignored

Those tests run this file twice over. With `--make FOLDER` it makes small random models of every
architecture and saves them, with the logits that `transformers` computes, for our engine to read.
With a folder of exports of ours and `expected.json` (our own logits and ids) it opens them.
"""

import json
import pathlib
import sys

import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TOLERANCE = 1e-4
TEXT = "fn main() {\n    println!(\"\u7b97\u7c92 \U0001f642\");\t// it's 12345\n}\n\n\n  The   end.\r\n"
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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

    kind = model.config.model_type
    tokenizers_here = [PreTrainedTokenizerFast.from_pretrained(checkpoint)]
    if kind == "llama":
        # For Qwen it replaces the patterns of any tokenizer.json by those of Qwen's own.
        tokenizers_here.append(AutoTokenizer.from_pretrained(checkpoint))
    for tokenizer in tokenizers_here:
        entries = expected.get("entries", expected["vocab"])
        assert len(tokenizer) == entries, f"{len(tokenizer)} entries"
        ids = tokenizer(expected["text"], add_special_tokens=False)["input_ids"]
        assert ids == expected["ids"], f"{folder.name}: {type(tokenizer).__name__}: ids differ"
        assert tokenizer.decode(ids) == expected["text"], f"{folder.name}: text differs"
        template = expected.get("chat_template")
        assert tokenizer.chat_template == template, f"{folder.name}: its chat template is lost"

    ids = torch.tensor([expected["prompt"]])
    with torch.no_grad():
        logits = model(ids).logits[0].flatten()
    ours = torch.tensor(expected["logits"])
    assert logits.shape == ours.shape, f"{logits.shape} against {ours.shape}"
    difference = (logits - ours).abs().max().item()
    spread = ours.std().item()
    print(f"{folder.name} ({kind}): largest difference {difference:.2e} at a spread of {spread:.2f}")
    assert spread > 0.1, "logits that hardly differ prove nothing"
    settings = {"do_sample": False, "min_new_tokens": 3, "max_new_tokens": 3, "pad_token_id": 0}
    made = model.generate(ids[:, :4], **settings)
    assert made.shape == (1, 7)
    return difference


def byte_level() -> tokenizers.Tokenizer:
    """A byte-level BPE with a pattern of its own, as Llama 3 and Qwen have."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    begin = ("<|begin|>", tokenizer.token_to_id("<|begin|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[begin]
    )
    return tokenizer


def characters() -> tokenizers.Tokenizer:
    """A BPE over characters that falls back to bytes, as Llama 2 and Mistral have."""
    special = ["<unk>", "<s>", "</s>"]
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=60, limit_alphabet=30, show_progress=False)
    trained.train_from_iterator([TEXT.replace("\n", " ")] * 20, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def cases() -> dict:
    """Configs by name, with the type of their weights and the bytes of a shard."""
    sizes = {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "initializer_range": 0.15,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    window = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}
    whole, parts = "5GB", "60KB"
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    return {
        "llama2": (LlamaConfig(**sizes | {"num_key_value_heads": 4}), f32, whole),
        "llama2-tied-f16": (LlamaConfig(**sizes, tie_word_embeddings=True), f16, whole),
        "llama3": (LlamaConfig(**sizes, rope_parameters=llama3), f32, whole),
        "llama3-old-keys": (LlamaConfig(**sizes, rope_parameters=llama3), bf16, parts),
        "llama-linear-tied": (
            LlamaConfig(**sizes, rope_parameters=linear, tie_word_embeddings=True),
            f32,
            parts,
        ),
        "mistral-wide-heads": (MistralConfig(**sizes, head_dim=24, sliding_window=None), bf16, parts),
        "mistral-window": (MistralConfig(**sizes, sliding_window=40), f32, whole),
        "qwen2": (Qwen2Config(**sizes), bf16, parts),
        "qwen2-tied-window": (Qwen2Config(**sizes, tie_word_embeddings=True, **window), f32, whole),
        "qwen3": (Qwen3Config(**sizes, head_dim=24), f32, parts),
        "qwen3-tied": (Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=True), bf16, parts),
    }


def make(root: pathlib.Path) -> None:
    torch.manual_seed(7)
    for name, (config, dtype, shard) in cases().items():
        folder = root / name
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    # Norms that are all one and biases that are all zero would hide a mistake.
                    parameter += 0.2 * torch.randn_like(parameter)
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        if name.endswith("old-keys"):
            old_keys(folder / "config.json")
        old = name.startswith(("llama2", "mistral"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=characters() if old else byte_level(),
            clean_up_tokenization_spaces=False,
        )
        tokenizer.chat_template = "{{ messages }}"
        tokenizer.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        context = 40 if "window" in name else config.max_position_embeddings
        prompt = [(i * 37 + 11) % config.vocab_size for i in range(context)]
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0].flatten()
        theirs = {
            "context": context,
            "prompt": prompt,
            "logits": logits.tolist(),
            "text": TEXT,
            "ids": tokenizer(TEXT, add_special_tokens=False)["input_ids"],
            "framed": tokenizer("a")["input_ids"],
            "entries": len(tokenizer),
        }
        (folder / "theirs.json").write_text(json.dumps(theirs), encoding="utf-8")


def old_keys(path: pathlib.Path) -> None:
    """Writes the rotary angles as `transformers` 4 did."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    if sys.argv[1] == "--make":
        make(pathlib.Path(sys.argv[2]))
        return
    folders = sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir())
    assert folders, "no exports found"
    worst = max(check(folder) for folder in folders)
    print(f"transformers {transformers.__version__}: {len(folders)} exports, worst {worst:.2e}")
    if worst > TOLERANCE:
        sys.exit(f"expected at most {TOLERANCE}, found {worst}")


if __name__ == "__main__":
    main()
