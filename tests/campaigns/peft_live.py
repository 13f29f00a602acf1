"""LoRA adapters beside PEFT's own, in an environment that has torch, transformers and peft.

    python -m tests.campaigns.peft_live         # random models, adapters both ways: the largest difference of logits
    python -m tests.campaigns.peft_live golden  # writes golden_peft.npz, which tests compare with

Each line says what was compared and what was found; the exit status is 1 if anything differs.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import gptjax
from gptjax.config import Lora, ModelConfig
from gptjax.exchange.export import logits_of
from gptjax.exchange.peft_adapter import CONFIG, WEIGHTS, write_adapter
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.fingerprint import fingerprint
from gptjax.nn.lora import with_adapters
from tests.campaigns.golden_transformers import kept
from tests.hf_models import LLAMA, PROMPT, QWEN3, write_folder

ALLOWED = 1e-4  # of the largest logit
GOLDEN = Path(__file__).with_name("golden_peft.npz")
BASES = {
    "llama": LLAMA,
    "llama, biases, tied": {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "qwen3": QWEN3,
    "qwen3, one key head": {**QWEN3, "num_key_value_heads": 1},
}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
THEIRS: dict[str, dict[str, Any]] = {  # what PEFT is asked for
    "all linear": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
    "rank-stabilised": {"r": 5, "lora_alpha": 7, "target_modules": EVERY, "use_rslora": True, "lora_dropout": 0.1},
    "query and value": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    "ranks and alphas of their own": {
        "r": 4, "lora_alpha": 8, "target_modules": EVERY, "alpha_pattern": {"model.layers.0.mlp.down_proj": 3},
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7}, "init_lora_weights": "gaussian",
    },
    "layers 0 and 2": {
        "r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "down_proj"], "layers_to_transform": [0, 2],
    },
    "by one regular expression": {"r": 3, "lora_alpha": 4, "target_modules": r".*\.(0|1)\.self_attn\.(q|o)_proj"},
}  # fmt: skip
OURS = {
    "all linear": Lora(rank=8),
    "rank-stabilised": Lora(rank=3, alpha=2.5, rank_stabilised=True),
    "query and down": Lora(rank=2, alpha=3.0, dropout=0.2, targets=("query", "down")),
}
wrong: list[str] = []


def say(what: str, found: np.ndarray, wanted: np.ndarray, base: np.ndarray) -> None:
    """`base`: logits without the adapter, which must matter."""
    largest, difference = np.abs(wanted).max(), np.abs(found - wanted).max()
    good = difference <= ALLOWED * largest and np.abs(wanted - base).max() > 0.1 * largest
    print(f"{'ok   ' if good else 'WRONG'} {what}: {difference:.2g} of {largest:.3g}", flush=True)
    if not good:
        wrong.append(what)


def their_base(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def their_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([PROMPT])).logits[0].numpy()


def their_adapter(base: Path, folder: Path, asked: dict[str, Any]) -> np.ndarray:
    """Makes an adapter by PEFT, loud in both matrices, and returns the logits with it."""
    import peft
    import torch

    torch.manual_seed(0)
    model = peft.get_peft_model(their_base(base), peft.LoraConfig(task_type="CAUSAL_LM", **asked))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(folder)
    return their_logits(model)


def drawn(config: ModelConfig, seed: int = 0) -> Any:
    """Adapters of that config, from N(0, 0.3)."""
    lora, draw = config.lora, np.random.default_rng(seed)
    assert lora is not None
    layers = {}
    for name, (X, Y) in config.adapted.items():
        layers[f"{name}_lora_a"] = jnp.asarray(0.3 * draw.standard_normal((config.L, X, lora.rank)), jnp.float32)
        layers[f"{name}_lora_b"] = jnp.asarray(0.3 * draw.standard_normal((config.L, lora.rank, Y)), jnp.float32)
    return {"layers": layers}


def our_logits(model: LanguageModel) -> np.ndarray:
    return logits_of(model, [PROMPT])[0]


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    for number, (name, fields) in enumerate(BASES.items()):
        yield name, write_folder(folder / f"base-{number}", fields)


def compare(folder: Path) -> None:
    import peft

    for name, base in cases(folder):
        model = gptjax.load(base)
        plain = our_logits(model)
        for what, asked in THEIRS.items():
            adapter = base / f"theirs {what}"
            wanted = their_adapter(base, adapter, asked)
            say(f"{name}, PEFT's adapter here: {what}", our_logits(gptjax.load(base, adapter=adapter)), wanted, plain)
        for what, lora in OURS.items():
            adapter = base / f"ours {what}"
            config = dataclasses.replace(model.config, lora=lora)
            params = with_adapters(model.params, drawn(config))
            write_adapter(adapter, params, config, fingerprint(params, config))
            found = their_logits(peft.PeftModel.from_pretrained(their_base(base), adapter))
            say(
                f"{name}, ours in PEFT: {what}",
                found,
                our_logits(LanguageModel(config, model.tokenizer, params)),
                plain,
            )
            again = our_logits(gptjax.load(base, adapter=adapter))
            say(f"{name}, ours here, merged: {what}", again, found, plain)


def write_golden(folder: Path) -> None:
    """Of a Llama and a Qwen3: every file of an adapter, and the logits with it."""
    import peft
    import torch

    found = {"versions": np.array([f"torch {torch.__version__}", f"peft {peft.__version__}"])}
    for name, what in (("llama", "ranks and alphas of their own"), ("qwen3", "rank-stabilised")):
        base, adapter = write_folder(folder / name, BASES[name]), folder / f"{name} adapter"
        found[f"{name} logits"] = kept(their_adapter(base, adapter, THEIRS[what]))
        for file in (CONFIG, WEIGHTS):
            found[f"{name} {file}"] = np.frombuffer((adapter / file).read_bytes(), np.uint8)
    np.savez_compressed(GOLDEN, **found)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_golden(Path(folder)) if sys.argv[1:] == ["golden"] else compare(Path(folder))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
