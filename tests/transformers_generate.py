"""`transformers` on the engine's work, as the other side of an interleaved measurement (`cargo xtask bench engine --row generate`).

Continues a prompt greedily with the model in a folder, in float32, with its cache of keys and values. It is driven over
standard input: each line is a number of texts; the answer is one line of JSON with the seconds of each and the peak RSS.
It prints {"ready": ...} after warm-up. Needs torch and transformers.

    python transformers_generate.py FOLDER --threads 2 --tokens 128 --prompt 11,222,3333 [--compile]

With --compile the step is compiled and the cache has a fixed size, as the documentation of transformers advises for speed.
"""

import argparse
import json
import os
import resource
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name in ("threads", "tokens"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main():
    asked = arguments()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    import torch
    import transformers

    torch.set_num_threads(asked.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32).eval()
    ids = torch.tensor([[int(token) for token in asked.prompt.split(",")]])
    settings = {"do_sample": False, "use_cache": True, "pad_token_id": 0}
    settings |= {"min_new_tokens": asked.tokens, "max_new_tokens": asked.tokens}
    if asked.compile:
        settings["cache_implementation"] = "static"
        model.forward = torch.compile(model.forward)

    def write():
        begun = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        seconds = time.perf_counter() - begun
        assert out.shape[1] == ids.shape[1] + asked.tokens, out.shape
        return seconds

    for _ in range(3 if asked.compile else 1):
        write()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"ready": transformers.__version__, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        seconds = [write() for _ in range(int(line))]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
