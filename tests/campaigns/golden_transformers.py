"""Writes golden_transformers.npz: what Hugging Face's transformers computes for the models of tests/hf_models.py.

    python -m tests.campaigns.golden_transformers

in an environment that has torch and transformers besides the wheel; the file holds their versions. Kept of the logits
are the first COLUMNS and the logarithm of the sum of all, at every place of the prompt; and 16 greedy tokens after it.
Of the gradients of some, the length of each tensor's and its product with a random direction.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.hf_models import CASES, PROMPT, drawn, write_folder

GOLDEN = Path(__file__).with_name("golden_transformers.npz")
COLUMNS = 40
CONTINUED = 16
TRAINED = ("qwen2", "smollm3")  # whose gradients are kept: those of biases, and through layers without positions


def kept(logits_TV: np.ndarray) -> np.ndarray:
    """What the file keeps of the logits: [T, COLUMNS + 1]."""
    logits_TV = logits_TV.astype(np.float64)
    top_T1 = logits_TV.max(-1, keepdims=True)
    total_T1 = top_T1 + np.log(np.exp(logits_TV - top_T1).sum(-1, keepdims=True))
    return np.concatenate([logits_TV[:, :COLUMNS], total_T1], -1).astype(np.float32)


def measured(gradients: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the file keeps of the gradients, in the order of their names: [tensor, 2]."""
    found = []
    for name, array in sorted(gradients.items()):
        along = (array * drawn(f"direction of {name}", array.shape)).sum(dtype=np.float64)
        found.append((along, np.sqrt(np.square(array).sum(dtype=np.float64))))
    return np.array(found)


def main() -> None:
    import torch
    import transformers

    found = {"versions": np.array([f"torch {torch.__version__}", f"transformers {transformers.__version__}"])}
    for name, fields in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_folder(Path(folder) / "model", fields)
            model, report = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        assert not report["missing_keys"], report
        assert not report["unexpected_keys"], report
        with torch.no_grad():
            logits_TV = model(torch.tensor([PROMPT])).logits[0].numpy()
            model.generation_config.eos_token_id = None
            ids = model.generate(torch.tensor([PROMPT]), max_new_tokens=CONTINUED, do_sample=False)[0].tolist()
        assert logits_TV.std() > 3, (name, logits_TV.std())
        if name in TRAINED:
            loss = torch.nn.functional.cross_entropy(
                model(torch.tensor([PROMPT])).logits[0, :-1], torch.tensor(PROMPT[1:])
            )
            loss.backward()
            found[f"{name} gradients"] = measured({name: leaf.grad.numpy() for name, leaf in model.named_parameters()})
        found[f"{name} logits"], found[f"{name} greedy"] = kept(logits_TV), np.array(ids[len(PROMPT) :], np.int16)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
